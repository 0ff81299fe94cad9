"""Draw what a representation kept: a diffusion model conditioned on h (RCDM, Bordes et al. 2022), and a number for it.

What stays the same across samples of one h is in the representation, what varies is not (the paper's Figure 5).
"""
