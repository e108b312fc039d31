"""The miniature: a rendered world with known truth, and tiny encoders in the official formats trained on it.

``world``, ``scenes`` and ``sentences`` make the world; ``dataset`` renders it for training; ``make`` trains
(``train_*``) and packs ``weights/``, which extract/encoders/packaged.py unpacks; ``check`` measures what they mean on
unseen worlds. No extraction imports the training.
"""
