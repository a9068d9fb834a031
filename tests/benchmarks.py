"""The data sets of list/, as tests want them."""

from utils.datasets import load_dataset

DATASETS = {key: load_dataset(key) for key in ("ucf", "xd")}
UCF, XD = DATASETS.values()
