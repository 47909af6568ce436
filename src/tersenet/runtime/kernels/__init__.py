"""Products with weights as they are stored: none of these writes the dense weight out again."""
