"""Does a picture show what its prompt says? Published scorers, one file each; pictures and prompts come from disk.

`tifa` (arXiv 2303.11897) asks a visual question answering model; `clip` (the protocol of arXiv 2301.13826) compares
embeddings of pictures, prompts and captions; `blip_vqa` (arXiv 2307.06350) asks for each noun phrase. `runs` keeps one
row per picture. Nothing here knows how a picture was made.
"""
