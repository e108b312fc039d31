"""MiniGPT-4 and MiniGPT-v2 from their original checkpoints: EVA-CLIP-g, Q-Former or concatenation, Llama."""
