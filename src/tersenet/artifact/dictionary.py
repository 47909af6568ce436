"""The preset dictionary of the text part: what files are expected to say, the likeliest last.

It belongs to format version 1 and never changes; `docs/FORMAT.md` repeats it. Words outside it cost their letters.
"""

from __future__ import annotations

DICTIONARY = (
    # words of networks, forms and types
    b'"bfloat16","float64","complex64","int8","int32","int64","uint8","uint16","bool","binary","ternary","uniform",'
    b'"product","low_rank","scale","offset","group","shape","classes":100,"channels":"width":"depth":"dim":"heads":'
    b"module.model.layers.0.blocks.0.stages.1.stem.head.classifier.embeddings.embedding.encoder.decoder.attention."
    b"self_attn.in_proj_weight.out_proj.q_proj.k_proj.v_proj.query.key.value.dense.output.norm1.downsample.0.bn1."
    b'conv3.weight"weight_ih_l0","weight_hh_l0","bias_ih_l0","bias_hh_l0",'
    # settings of recipes that few need
    b'"factory":"kwargs":{"weights":"input":"image","label":"label","normalize":false,"rotate":10,"scale":0.1,'
    b'"flip":true},"in_memory":false,"workers":4,"cifar10","fashion_mnist",".pt",".safetensors","objective":'
    b'"label_smoothing":0.1,"nesterov":true,"l1":1e-05,"milestones":[0.5,0.75],"gamma":0.1,"warmup":0.1,'
    b'"clip_norm":1.0,"max_error_increase":0.001,"max_bytes":"min_ratio":40.0,"accelerator":"cuda","mps","cpu",'
    b'"devices":2,"nodes":1,"precision":"bf16-mixed","16-mixed","coder":"huffman","range","raw",'
    b'"quality":{"random","smallest_kept","square","std","begin":0.1,"end":0.8,"frequency":50,"margin":0.2,'
    b'"rescale_dropout":true,"density","linear","step","constant","Embedding","conv","targets":["fc*"],"ignore":["conv1'
    # texts as they stand in files, in the order of the format
    b'[["dense","int64",{},{"values":["int64",-1,0]},[]],["dense","float32",{},{"values":["float32",-1,1]},[]],'
    b'["masked","float32",{"mask":3},{"values":["float32",1,0]},[]],["masked","float32",{"mask":3},'
    b'{"values":["float32",1,1]},[]],["shared","float32",{"index":3},{"codebook":["float32",1,0]},[]],'
    b'["features.0.bias","features.0.weight","features.1.weight","features.1.bias","features.1.running_mean",'
    b'"features.1.running_var","features.1.num_batches_tracked","features.3.bias"],{},{"name":"vgg16_bn","vgg11_bn",'
    b'"mlp_3x512","kwargs":{"dropout":0.5}},["fc1.weight","fc1.bias","fc2.weight","fc2.bias","fc3.weight","fc3.bias"],'
    b'"targets":["Linear"],"ignore":["conv1"],"criterion":"random","scope":"global",'
    b'"schedule":"iterative","steps":5,"splice":true,"final":{"epochs":"steps":100,"schedule":"linear"}}],'
    b'"code":{"coder":"ans","small_tensors":"float32"},"gate":{"max_error":0.016},"runtime":{"threads":2},'
    b'[["dense","float32",{},{"values":["float16",-1,1]},[]],["shared","float32",{"index":3},'
    b'{"codebook":["float16",1,0]},[]],["dense","float32",{},{"values":["float16",-1,0]},[]]],'
    b'["fc1.bias","fc1.weight","fc2.bias","fc2.weight","fc3.bias","fc3.weight"],'
    b'{},{"name":"lenet_300_100","kwargs":{"inputs":64}},{"data":{"path":"digits","validation":0.15},'
    b'"train":{"epochs":60,"batch_size":64,"optimizer":"adamw","lr":0.002,"l2":0.05},'
    b'"stages":[{"method":"prune.magnitude","sparsity":{"fc1":0.95,"fc2":0.9,"fc3":0.5},"schedule":"gradual",'
    b'[["dense","float32",{},{"values":["float16",-1,0]},[]],["shared","float32",{"index":3},'
    b'{"codebook":["float16",1,0]},[]],["dense","float32",{},{"values":["float16",-1,1]},[]]],'
    b'["conv1.bias","conv1.weight","conv2.bias","conv2.weight","fc1.bias","fc1.weight","fc2.bias","fc2.weight"],'
    b'{},{"name":"lenet5"},{"data":{"path":"mnist","validation":5000.0,"augment":{"shift":1}},'
    b'"train":{"epochs":20,"optimizer":"sgd","lr":0.1,"momentum":0.95,"l2":0.0005},'
    b'"stages":[{"method":"prune.magnitude","sparsity":{"conv1":0.5,"conv2":0.9,"fc1":0.98,"fc2":0.8},'
    b'"schedule":"gradual","end":0.6,"finetune":{"epochs":20,"optimizer":"sgd","lr":0.01,"l2":0.0001}},'
    b'{"method":"quantize.share","bits":{"Conv2d":5,"Linear":4},"init":"exact","codebook":"float16",'
    b'"finetune":{"epochs":5,"lr":0.0001}}],"seed":1},'
    b'{"tersenet":"0.1.0","torch":"2.13.0"},"mnist"]'
)
