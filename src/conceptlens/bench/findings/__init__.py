"""What the T-SAM paper found about text and cross-attention (arXiv 2411.15236, section 3), measured on any model.

One file per finding: `maps` (1: maps are as alike as their words' embeddings), `binding` (2-1 and 2-2: embeddings do
not tell which words belong together, the encoder's self-attention does), `sink` (2-3: where that attention goes
instead), `outcomes` (figure 4: what maps look like where an object is missing or a colour is wrong). Nothing here moves
a latent.
"""
