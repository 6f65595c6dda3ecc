"""Default hyperparameters compared with fastai's, timm's and a search's, on data sets of several kinds."""
