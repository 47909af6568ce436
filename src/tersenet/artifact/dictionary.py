"""The preset dictionary of the text part: words that files are expected to use, the likeliest last.

It belongs to format version 1 and never changes; `docs/FORMAT.md` repeats it. Words outside it cost their letters.
"""

from __future__ import annotations

DICTIONARY = (
    # words that stand alone
    b'"bfloat16""int64""uint8""num_batches_tracked","running_mean","running_var","in_proj_weight","out_proj.'
    b'layers.0.attention.encoder.decoder.embedding.norm1.downsample.block.blocks.stem.head.classifier.0.weight'
    b'"features.0.weight","features.0.bias","features.1.weight","features.1.bias","features.1.running_mean"'
    b'"binary""ternary""uniform""product""low_rank""scale""zero_point""bits""group"'
    b'"weights":"factory":"kwargs":{"classes":10,"width":"depth":"dropout":"activation":"relu","hidden":[512,512,512]'
    b'"lenet_300_100""vgg11_bn""vgg16_bn""resnet20""mlp""cifar10""fashion_mnist""digits"'
    b'"input":"image""label":"workers":"in_memory":"normalize":false"rotate":"scale":"flip":true'
    b'"label_smoothing":0.1"milestones":[0.5,0.75]"gamma":0.1"warmup":0.1"clip_norm":1.0"nesterov":true'
    b'"constant""linear""step""steps":1000"optimizer":"adamw""adam""l1":1e-05'
    b'"precision":"bf16-mixed""devices":"nodes":"accelerator":"cuda""mps""cpu""huffman""range""raw"'
    b'"max_error_increase":"max_bytes":"min_ratio":"objective":"cross_entropy"'
    b'"random""smallest_kept""square""threshold""quality":"std""per_layer""layer""global"'
    b'"init":"density""forgy""kmeans""exact""iterative""gradual""one_shot""cubic""dropout":'
    # a whole text, in the order of the format
    b'[["masked","float32",{"mask":3},{"values":["float32",1,1]},[]],'
    b'["shared","float32",{"index":3},{"codebook":["float32",1,0]},[]],'
    b'["dense","float32",{},{"values":["float16",-1,1]},[]],'
    b'["shared","float32",{"index":3},{"codebook":["float16",1,0]},[]],'
    b'["dense","float32",{},{"values":["float16",-1,0]},[]]],'
    b'["fc1.weight","fc1.bias","fc2.weight","fc2.bias","fc3.weight","fc3.bias"],{},{"name":"lenet_300_100"},'
    b'["conv1.weight","conv1.bias","conv2.weight","conv2.bias","fc1.weight","fc1.bias","fc2.weight","fc2.bias"],'
    b'{},{"name":"lenet5"},{"data":{"path":"mnist","validation":5000,"augment":{"shift":1}},'
    b'"train":{"epochs":20,"batch_size":64,"optimizer":"sgd","lr":0.1,"l2":0.0001,"schedule":"cosine"},'
    b'"stages":[{"method":"prune.magnitude","targets":["Linear"],"ignore":["conv1.*"],"criterion":"magnitude",'
    b'"scope":"global","sparsity":{"conv1":0.5,"conv2":0.9,"fc1":0.9,"fc2":0.8,"fc3":0.7},"schedule":"gradual",'
    b'"steps":10,"splice":true,"finetune":{"epochs":10,"lr":0.001,"l2":0.0005}},'
    b'{"method":"quantize.share","bits":{"Conv2d":8,"Linear":5},"init":"linear","finetune":{"epochs":5,"lr":0.0001}}],'
    b'"code":{"coder":"ans","small_tensors":"float32"},"gate":{"max_error":0.01},"runtime":{"threads":2},"seed":1},'
    b'{"tersenet":"0.1.0","torch":"2.13.0"},"mnist"]'
)  # fmt: skip
