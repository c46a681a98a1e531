"""What `train_embedded_clip.py` is made of: the stream of scenes, the models, the contrast and the measurements."""
