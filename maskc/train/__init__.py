"""Training with channel masks in TensorFlow and Keras: masks, importance, cost, pruning optimizer and trainer.

Needs the extra `maskc[tensorflow]`. Importing this package is what imports TensorFlow; `import maskc` does
not.
"""

from maskc.errors import UnavailableError
from maskc.frontend.tensorflow.importing import import_keras as _import_keras

try:
    _import_keras()
except UnavailableError as error:
    raise UnavailableError(f"maskc.train cannot be used here. {error}") from error

from maskc.train.cost import ComputationalCost, computational_cost
from maskc.train.data.features import FeatureSpec
from maskc.train.data.records import Records, write_records
from maskc.train.export import Exported, export_model
from maskc.train.find_masks import find_input_mask, find_mask, find_output_mask, pruned_shape
from maskc.train.mask_layer import MaskLayer
from maskc.train.models.insert_masks import prunable
from maskc.train.models.masked_attention import MaskedGroupQueryAttention, MaskedMultiHeadAttention
from maskc.train.models.masknet import MaskBlock, MaskBlockConfig, MaskNet, MaskNetConfig, MlpConfig
from maskc.train.models.recommender import RankerConfig, ranker
from maskc.train.optimizer.callback import PruningCallback, at_target
from maskc.train.optimizer.functional import apply_mask, prune, update_pruning_signals
from maskc.train.optimizer.pruning_optimizer import PruningOptimizer
from maskc.train.running.fine_tune import Distiller, distill, fine_tune
from maskc.train.running.loop import Interrupted, Monitor
from maskc.train.selection.pruner import Pruned
from maskc.train.shrinking.select_channels import SelectChannels
from maskc.train.shrinking.shrink import shrink
from maskc.train.trainer import PruningTrainer

__all__ = [
    "ComputationalCost",
    "Distiller",
    "Exported",
    "FeatureSpec",
    "Interrupted",
    "MaskBlock",
    "MaskBlockConfig",
    "MaskLayer",
    "MaskNet",
    "MaskNetConfig",
    "MaskedGroupQueryAttention",
    "MaskedMultiHeadAttention",
    "MlpConfig",
    "Monitor",
    "Pruned",
    "PruningCallback",
    "PruningOptimizer",
    "PruningTrainer",
    "RankerConfig",
    "Records",
    "SelectChannels",
    "apply_mask",
    "at_target",
    "computational_cost",
    "distill",
    "export_model",
    "find_input_mask",
    "find_mask",
    "find_output_mask",
    "fine_tune",
    "prunable",
    "prune",
    "pruned_shape",
    "ranker",
    "shrink",
    "update_pruning_signals",
    "write_records",
]
