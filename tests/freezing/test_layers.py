from functools import cache
from itertools import pairwise

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.overrides import TorchFunctionMode

from frostline.console.errors import FrostlineError
from frostline.freezing.layers import layers_of
from frostline.models.mlp import Mlp

FAMILIES = {  # model: stages, blocks, a tensor of the head
    "resnet10t": (4, 4, "fc.weight"),
    "resnet18": (4, 8, "fc.weight"),
    "resnext26ts": (4, 8, "head.fc.weight"),
    "regnetx_002": (4, 13, "head.fc.weight"),
    "densenet121": (4, 58, "classifier.weight"),
    "tf_efficientnet_lite0": (7, 16, "classifier.weight"),
    "mobilenetv3_small_100": (6, 12, "classifier.weight"),
    "ghostnet_050": (10, 17, "classifier.weight"),
    "convnext_atto": (4, 12, "head.fc.weight"),
    "edgenext_xx_small": (4, 12, "head.fc.weight"),
    "fastvit_t8": (4, 10, "head.fc.weight"),
    "repvgg_a0": (4, 21, "head.fc.weight"),
    "vgg11": (7, 7, "head.fc.weight"),
    "vgg11_bn": (7, 7, "head.fc.weight"),
    "inception_v3": (12, 12, "fc.weight"),
    "inception_v4": (19, 19, "last_linear.weight"),
    "dm_nfnet_f0": (4, 12, "head.fc.weight"),
    "rdnet_tiny": (7, 7, "head.fc.weight"),
    "vit_tiny_patch16_224": (12, 12, "head.weight"),
    "deit_tiny_distilled_patch16_224": (12, 12, "head_dist.weight"),
    "beit_base_patch16_224": (12, 12, "head.weight"),
    "eva02_tiny_patch14_224": (12, 12, "head.weight"),
    "cait_xxs24_224": (24, 24, "head.weight"),
    "xcit_nano_12_p8_224": (14, 14, "head.weight"),
    "volo_d1_224": (21, 21, "aux_head.weight"),
    "crossvit_tiny_240": (3, 3, "head.1.weight"),
    "hiera_tiny_224": (12, 12, "head.fc.weight"),
    "swin_tiny_patch4_window7_224": (4, 12, "head.fc.weight"),
    "swinv2_tiny_window8_256": (4, 12, "head.fc.weight"),
    "focalnet_tiny_srf": (4, 12, "head.fc.weight"),
    "pvt_v2_b0": (4, 4, "head.weight"),
    "maxvit_pico_rw_256": (4, 4, "head.fc.weight"),
    "coatnet_nano_rw_224": (4, 4, "head.fc.weight"),
    "coat_tiny": (17, 17, "head.weight"),
    "levit_128s": (3, 9, "head_dist.linear.weight"),
    "repvit_m0_9": (4, 20, "head.head_dist.l.weight"),
    "mobilevit_xxs": (5, 10, "head.fc.weight"),
    "mixer_s32_224": (8, 8, "head.weight"),
    "resmlp_12_224": (12, 12, "head.weight"),
}
UNMATCHED = {  # the same for models without a group_matcher
    "caformer_s18": (4, 18, "head.fc.fc2.weight"),
    "poolformer_s12": (4, 12, "head.fc.weight"),
    "pit_ti_224": (3, 12, "head.weight"),
    "csatv2": (4, 21, "head.fc.weight"),  # a layer between two stages counts as a block
}


def on_meta(name, classes=10):
    with torch.device("meta"):
        return timm.create_model(name, num_classes=classes)


@cache
def model_of(name):
    """One for all tests that leave it as it is, with its layers."""
    model = on_meta(name)
    return model, layers_of(model)


def layers(name):
    return model_of(name)[1]


def check_places(found, model):
    """Each tensor lies in one part; the blocks of a stage all come before those of the next."""
    assert found.parameters == {n for n, _ in model.named_parameters()}
    stages = [found.match(f"stage:{i}") for i in range(found.stages)]
    parts = [found.match("stem"), *stages, found.match("head")]
    assert all(stages)
    assert sum(map(len, parts)) == len(found.places)
    assert frozenset().union(*parts) == found.places.keys()
    blocks = [{found.places[name].block for name in stage} for stage in stages]
    assert sorted(b for stage in blocks for b in stage) == list(range(found.blocks))
    assert all(max(one) < min(following) for one, following in pairwise(blocks))
    assert found.match("head") == {n for n, p in found.places.items() if p.depth == found.blocks + 1}
    assert found.match("stem") == {n for n, p in found.places.items() if p.depth == 0}


@pytest.mark.parametrize("name", FAMILIES | UNMATCHED)
def test_every_parameter_has_one_place_from_input_to_head(name):
    model, found = model_of(name)
    stages, blocks, head = (FAMILIES | UNMATCHED)[name]
    assert (found.stages, found.blocks) == (stages, blocks)
    assert head in found.match("head")
    assert found.match("stem")
    check_places(found, model)
    shapes = {n: p.shape for n, p in on_meta(name, classes=11).named_parameters()}
    assert found.match("head") == {n for n, p in model.named_parameters() if p.shape != shapes[n]}


class Uses(TorchFunctionMode):
    """Notes the parameters of `model` in the order in which a forward pass comes to them."""

    def __init__(self, model):
        super().__init__()
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.order = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.note((args, kwargs))
        return function(*args, **(kwargs or {}))

    def note(self, value):
        if isinstance(value, (tuple, list)):
            for item in value:
                self.note(item)
        elif isinstance(value, dict):
            self.note(list(value.values()))
        elif id(value) in self.names:
            self.order.setdefault(self.names[id(value)])


def uses(model):
    with torch.no_grad(), Uses(model) as seen:
        model.eval()(torch.empty(1, *model.pretrained_cfg["input_size"], device="meta"))
    return list(seen.order)


SMALL = ("atto", "femto", "pico", "nano", "tiny", "_xt", "_t", "small", "_s", "_xs", "b0", "050", "a0", "18")
# A second and more each; the second line is ViT's in all but name.
TOO_LARGE = {"mobilenetv5", "nasnet", "pnasnet", "senet", "sequencer"}
TOO_LARGE |= {"deepseek_vit", "gemma4_vit", "qwen3_vit"}


def smallest(module):
    """A small model of timm's module, going by the names."""
    return min(
        timm.list_models(module=module),
        key=lambda name: (next((i for i, size in enumerate(SMALL) if size in name), len(SMALL)), len(name)),
    )


# Used later than the layers that timm puts them in front of.
LATE = {
    "cait": r"blocks_token_only\.",  # overlapped with the last blocks
    "coat": r"crpe\d\.",  # position encodings that blocks share
    "efficientvim": r"(norm|heads)\.",  # a norm and a head after each stage, all counted to the last
    "repvit": r"head\.head_dist\.bn\.",  # the second head's own norm
}
# The second head's norm: part of ours, since that cfg forgets the head; dropped by timm along with the head.
OTHER_HEAD = {
    "levit_384_s8": {"head_dist.bn.weight", "head_dist.bn.bias"},
    "repvit_m1": {"head.head_dist.bn.weight", "head.head_dist.bn.bias"},
}


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted(set(timm.list_modules()) - TOO_LARGE))
def test_every_architecture_of_timm_goes_from_input_to_head(module):
    name = smallest(module)
    model = on_meta(name)
    found = layers_of(model)
    check_places(found, model)
    assert found.stages >= 3
    # The model's own tensors, such as class tokens, are inputs, wherever they enter.
    late = {n for n in found.places if "." not in n}
    if module in LATE:
        late |= found.match(f"re:^({LATE[module]})")
    depths = [found.places[n].depth for n in uses(model) if n not in late]
    assert depths == sorted(depths)
    shapes = {n: p.shape for n, p in model.named_parameters()}
    model.reset_classifier(11)
    now = {n: p.shape for n, p in model.named_parameters()}
    changed = {n for n, shape in shapes.items() if now.get(n) != shape}
    assert changed ^ found.match("head") == OTHER_HEAD.get(name, set())


@pytest.mark.parametrize(
    ("pattern", "same_as"),
    [
        ("stage:-1", "stage:3"),
        ("stage:-2..", "stage:2..3"),
        ("block:0..1", "stage:0"),
        ("* - head", "stage:0.. "),
        ("stage:-1 - block:-1", "block:6"),
        ("bias - norm", "head - re:weight"),
        ("stage:1 - norm - bias", r"re:^layer2\..*(conv\d|downsample\.0)\.weight"),
    ],
)
def test_patterns_name_the_same_tensors(pattern, same_as):
    found = layers("resnet18")
    expected = found.match(same_as.strip())
    if pattern == "* - head":
        expected |= found.match("stem")
    assert found.match(pattern) == expected
    assert expected


FOUND = layers("resnet18")
span = st.tuples(st.integers(0, FOUND.blocks - 1), st.integers(0, FOUND.blocks - 1)).map(sorted)
patterns = st.sampled_from(
    ["*", "head", "stem", "norm", "bias", "stage:1", "stage:-2..", "block:3..5", r"re:conv\d", "re:absent"]
)


@given(span)
def test_a_range_is_its_blocks_counted_from_either_end(ends):
    first, last = ends
    n = FOUND.blocks
    whole = FOUND.match(f"block:{first}..{last}")
    assert whole == frozenset().union(*(FOUND.match(f"block:{i}") for i in range(first, last + 1)))
    assert whole == FOUND.match(f"block:{first - n}..{last - n}") == FOUND.match(f"block:{first}..{last - n}")
    assert whole == FOUND.match(f"block:{first}..") - FOUND.match(f"block:{last}..") | FOUND.match(
        f"block:{last}"
    )


@given(patterns, st.lists(patterns, max_size=3))
def test_a_difference_is_the_sets(wanted, unwanted):
    found = FOUND.match(" - ".join([wanted, *unwanted]))
    assert found == FOUND.match(wanted).difference(*map(FOUND.match, unwanted))
    assert FOUND.match(" - ".join([wanted, *reversed(unwanted)])) == found
    assert FOUND.match(f"{wanted} - {wanted}") == FOUND.match(f"{wanted} - *") == frozenset()


@pytest.mark.parametrize(
    ("name", "norm", "other"),
    [
        ("convnext_atto", "stages.0.blocks.0.norm.weight", "stages.0.blocks.0.gamma"),
        ("convnextv2_atto", "stages.0.blocks.0.mlp.grn.weight", "stages.0.blocks.0.mlp.fc1.weight"),
        ("maxvit_pico_rw_256", "stem.norm1.running_mean", "stem.conv1.weight"),  # BatchNormAct2d
        ("resnetv2_50d_evos", "stem.norm1.v", "stem.conv1.weight"),  # EvoNorm2dS0
        ("resnetv2_50d_frn", "stem.norm1.tau", "stem.conv1.weight"),  # FilterResponseNormTlu2d
        ("poolformer_s12", "stages.0.blocks.0.norm1.weight", "stages.0.blocks.0.layer_scale1.scale"),
        ("resmlp_12_224", "blocks.0.norm1.alpha", "blocks.0.ls1"),  # Affine
        ("dm_nfnet_f0", None, "stages.0.0.skipinit_gain"),  # of NormFreeBlock
    ],
)
def test_norms_are_known_by_their_classes(name, norm, other):
    found = layers(name)
    assert norm in found.match("norm") if norm else not found.match("norm")
    assert other in found.places.keys() - found.match("norm")


def test_running_statistics_lie_with_their_norm():
    found = layers("resnet18")
    assert "layer4.1.bn2.running_mean" in found.match("stage:-1") & found.match("norm")
    assert "layer4.1.bn2.running_mean" not in found.parameters


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("haed", "no layers are called 'haed'; did you mean 'head'?"),
        ("stage:4", "'stage:4': the network has 4 stages, stage:0 to stage:3"),
        ("stage:-5", "'stage:-5': the network has 4 stages"),
        ("stage:2..1", "'stage:2..1': the network has 4 stages"),
        ("stage:top", "'stage:top' is not a range of stages; write stage:2, stage:-1 or stage:1..2"),
        ("re:(", "'re:(' is not a regular expression"),
    ],
)
def test_a_wrong_pattern_is_one_sentence(pattern, message):
    with pytest.raises(FrostlineError) as caught:
        layers("resnet18").match(pattern)
    assert message in str(caught.value)


NECKS = {  # between the last block and the head: for timm the head's layer, for us the block's
    "mobilenetv3_small_100": "conv_head",
    "convnext_atto": "head.norm",
    "edgenext_xx_small": "head.norm",
    "hiera_tiny_224": "head.norm",
    "rdnet_tiny": "head.norm",
    "densenet121": "features.norm5",
    "beit_base_patch16_224": "fc_norm",
    "eva02_tiny_patch14_224": "fc_norm",
    "fastvit_t8": "final_conv",
    "vgg11": "pre_logits",
    "levit_128s": r"head(_dist)?\.bn",
    "repvit_m0_9": r"head\.head(_dist)?\.bn",
}


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - {"vgg11_bn"}))  # there each norm is a layer to timm
def test_layer_decay_is_timms(name):
    """timm scales the rate of layer i of n by decay to the power n − i."""
    model, found = model_of(name)
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    theirs = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    ours = {n: 0.5 ** (found.head_depth - found.places[n].depth) for n, _ in model.named_parameters()}
    differ = {n for n, p in model.named_parameters() if ours[n] != theirs[id(p)]}
    neck = found.match(f"re:^{NECKS[name]}") if name in NECKS else frozenset()
    assert differ == neck & found.parameters


def test_the_mlps_layers_are_stages():
    found = layers_of(Mlp(784, [64, 32], 10))
    assert found.match("stage:-1") == {"hidden.1.weight", "hidden.1.bias"}
    assert found.match("head") == {"head.weight", "head.bias"}
    assert found.match("stem") == frozenset()


def test_a_model_that_says_nothing_is_taken_in_its_own_order():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    )
    found = layers_of(model)
    assert found.match("head") == {"2.1.weight", "2.1.bias"}
    assert {"0.weight", "0.bias", "1.running_mean"} < found.match("stage:0")
    assert found.match("stage:1") == {"2.0.weight", "2.0.bias"}


def test_the_only_list_of_a_model_that_says_nothing_is_its_stages():
    def block():
        return nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2), nn.Linear(2, 2))

    model = nn.Sequential()
    model.embed = nn.Linear(2, 2)
    model.trunk = nn.ModuleList([block(), block()])
    model.after = nn.Linear(2, 2)
    model.top = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3))
    found = layers_of(model)
    assert found.match("stem") == {"embed.weight", "embed.bias"}
    assert found.match("stage:1") == found.match(r"re:^trunk\.1")
    assert found.match("stage:2..") == found.match(r"re:^(after|top\.0)")
    assert found.match("head") == {"top.2.weight", "top.2.bias"}
    assert found.match("stage:0 - block:0 - block:1") == found.match(r"re:^trunk\.0\.2")


def test_a_model_without_a_classifier_has_no_head():
    found = layers_of(on_meta("resnet18", classes=0))
    assert found.match("head") == frozenset()
    assert found.head_depth == 8


def test_the_biases_of_recurrent_layers_are_biases():
    found = layers_of(nn.Sequential(nn.LSTM(2, 2, bidirectional=True), nn.Linear(4, 2)))
    assert found.match("bias") == found.match(r"re:bias")
    assert "0.bias_hh_l0_reverse" in found.match("bias")


def test_a_model_without_parameters_is_refused():
    with pytest.raises(FrostlineError, match="no parameters"):
        layers_of(nn.ReLU())
