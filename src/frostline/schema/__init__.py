"""The schema of configs: strict, frozen models of everything that Hydra composes.

Values are in `conf/`. The only default is `None`, which means "not given": a resolved YAML contains all that
a result depends on, and this package only accepts or rejects. The docstring of a field gives its meaning and
unit. May import `base` and `console`.
"""

from frostline.schema.data import (
    USUAL_SHARE,
    Augment,
    Columns,
    Dataset,
    Digits,
    FashionMnist,
    HuggingFace,
    ImageFolder,
    Input,
    Mnist5k,
    Npz,
    PluginDataset,
    Split,
    Table,
    TestSet,
    is_multi_label,
)
from frostline.schema.measurement import Measurement, Tta
from frostline.schema.network import (
    Backbone,
    FileWeights,
    Head,
    ImagenetWeights,
    Mlp,
    NoWeights,
    PluginBackbone,
    PretrainWeights,
    Timm,
    Weights,
    backbone_name,
    needs_pretraining,
)
from frostline.schema.stages import (
    Arm,
    Evaluate,
    Experiment,
    Hyperparameters,
    Leakage,
    Omitted,
    Prepare,
    Report,
    Run,
    StudySetup,
)
from frostline.schema.sweep import CmaEsSampler, Conditional, Nsga2Sampler, Pruner, Sweep, TpeSampler
from frostline.schema.training import (
    AutoFeatures,
    Averaging,
    Bce,
    CrossEntropy,
    Effective,
    Ema,
    Epochs,
    Features,
    Freeze,
    L2Sp,
    L2Start,
    Lora,
    Loss,
    NoAdapter,
    NoAveraging,
    NoFeatures,
    NoRegularizer,
    Optimizer,
    Phase,
    Plateau,
    Rate,
    Regularizer,
    Swa,
    Trainer,
    WiseFt,
)
from frostline.schema.types import Strict
