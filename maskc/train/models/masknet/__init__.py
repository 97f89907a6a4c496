"""MaskNet (Wang, She, Zhang 2021, arXiv 2102.07619): a ranking network of instance-guided masks, ready to be pruned."""

from maskc.train.models.masknet.block import MaskBlock
from maskc.train.models.masknet.config import BatchNormConfig, DropoutConfig, MaskBlockConfig, MaskNetConfig, MlpConfig
from maskc.train.models.masknet.mlp import Mlp
from maskc.train.models.masknet.network import MaskNet

__all__ = [
    "BatchNormConfig",
    "DropoutConfig",
    "MaskBlock",
    "MaskBlockConfig",
    "MaskNet",
    "MaskNetConfig",
    "Mlp",
    "MlpConfig",
]
