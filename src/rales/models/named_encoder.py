"""Encoders of timm and of Hugging Face by name; the outputs of their blocks are layers to fuse.

`timm/NAME` sees a log-mel as a picture of one channel. `hf/NAME_OR_FOLDER` gets what its own feature extractor makes:
the filter bank of the Audio Spectrogram Transformer, or the waveform (wav2vec 2.0, HuBERT, WavLM and their like). No
code of a hub is run.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rales.errors import UsageError
from rales.models.borrowed_encoder import digest_tensors
from rales.models.vit import Layout
from rales.optional_packages import find_missing_package

Kind = Literal["picture", "fbank", "wave"]
"""What an encoder gets: a log-mel of any size (timm), Kaldi's filter bank (AST), the waveform."""
AST_TYPE = "audio-spectrogram-transformer"
MELS, AST_MEAN, AST_STD = 128, -4.2677393, 4.5689974  # of ASTFeatureExtractor, where a folder says nothing of it
PREFIX_TOKENS = 2  # of AST, before its patches
UNUSED = ("masked_spec_embed",)  # tensors of its training that no layer's output depends on
VARIANCE_FLOOR = 1e-7  # of Wav2Vec2FeatureExtractor


class EncoderFacts(NamedTuple):
    """What a name says before any weights are read."""

    kind: Kind
    depth: int
    architecture: str
    """From which the network is built again without the name: timm's own name with its tag, or a configuration of
    transformers as JSON."""
    revision: str
    """Commit of the name on the hub; "" of a folder and of timm."""
    rate_hz: int
    mean: float
    std: float
    """Standardisation of the filter bank, which divides by twice the std."""
    frames: int
    """Frames of the filter bank that the encoder gets, whatever the clip's; 0 = those of the clip."""
    normalise: bool
    """Whether a waveform is brought to mean 0 and variance 1."""


PICTURE = EncoderFacts("picture", 0, "", "", 16000, AST_MEAN, AST_STD, 0, False)


def split_encoder_word(word: str) -> tuple[str, str]:
    """`timm/NAME` or `hf/NAME_OR_FOLDER` -> library and name. Errors: another word, a package that is missing."""
    found = re.fullmatch(r"(timm|hf)/(.+)", word)
    if not found:
        raise UsageError(
            f"encoder={word or '(none)'}: expected timm/NAME, for example timm/vit_tiny_patch16_224, or "
            "hf/NAME_OR_FOLDER, for example hf/MIT/ast-finetuned-audioset-10-10-0.4593"
        )
    if found[1] == "timm" and ":" in found[2]:
        raise UsageError(
            f"encoder={word}: timm/ takes names that timm itself has; give a model of the hub, or a folder, as "
            "hf/NAME_OR_FOLDER, if it is one of transformers"
        )
    declare_torchvision_operators()
    if problem := find_missing_package({"timm": "timm", "hf": "transformers"}[found[1]], "encoders"):
        raise UsageError(f"encoder={word} {problem}")
    return found[1], found[2]


def declare_torchvision_operators() -> None:
    """Let torchvision be imported whose own operators do not load, as PyPI's (of CUDA) beside a torch without CUDA.

    timm and transformers import it for the transforms of pictures alone: none of these operators is ever called.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


@cache
def describe_encoder(word: str, revision: str = "") -> EncoderFacts:
    """Name of an encoder -> its facts; of Hugging Face by its configuration, without weights. Errors: an unknown name,
    one that cannot be fetched, a network that takes none of the three kinds of input."""
    library, name = split_encoder_word(word)
    if library == "timm":
        if revision:
            raise UsageError(f"revision={revision}: is of hf/…; leave it out, timm has it in the name")
        with torch.device("meta"):
            network = create_timm(name)
        tag = network.pretrained_cfg.get("tag")
        full = name if "." in name or not tag else f"{name}.{tag}"
        return PICTURE._replace(depth=len(network.feature_info), architecture=full)

    config = read_published(word, "its configuration", lambda: load_config(name, revision))
    facts = PICTURE._replace(
        depth=config.num_hidden_layers if hasattr(config, "num_hidden_layers") else 0,
        architecture=json.dumps(config.to_diff_dict(), sort_keys=True),
        revision=getattr(config, "_commit_hash", None) or revision,
    )
    extractor = load_extractor(name, revision)
    rate_hz = int(extractor.get("sampling_rate", 16000))
    if config.model_type == AST_TYPE:
        if config.num_mel_bins != MELS or rate_hz != 16000:
            raise UsageError(
                f"encoder={word}: an AST of {config.num_mel_bins} mel bands at {rate_hz} Hz, expected {MELS} at 16000"
            )
        mean, std = extractor.get("mean", AST_MEAN), extractor.get("std", AST_STD)
        return facts._replace(kind="fbank", mean=mean, std=std, frames=config.max_length)
    if not hasattr(config, "conv_stride") or not facts.depth:
        raise UsageError(
            f"encoder={word}: a network of the type {config.model_type}; known are AST and "
            "encoders of waveforms (wav2vec2, hubert, wavlm, data2vec-audio …)"
        )
    return facts._replace(kind="wave", rate_hz=rate_hz, normalise=bool(extractor.get("do_normalize", True)))


def load_config(name: str, revision: str) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(name, revision=revision or None, trust_remote_code=False)


def load_extractor(name: str, revision: str) -> dict[str, Any]:
    """Name or folder -> what it says of its feature extractor, {} where it says nothing."""
    from transformers.feature_extraction_utils import FeatureExtractionMixin

    try:
        found, _ = FeatureExtractionMixin.get_feature_extractor_dict(name, revision=revision or None)
    except (OSError, ValueError):
        return {}
    return dict(found)


def read_published(word: str, what: str, load: Callable[[], Any]) -> Any:
    """What `load` gives of a published encoder. Errors: a sentence for whatever the library raises."""
    try:
        return load()
    except Exception as error:  # of many kinds: no connection, no such name, a gated one, a damaged file
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(
            f"encoder={word}: {what} cannot be read ({reason[:200]}); check the name and the connection, or give a "
            "folder that `save_pretrained` wrote"
        ) from error


def build_named_encoder(word: str, architecture: str, size: tuple[int, int]) -> "TimmEncoder | HuggingFaceEncoder":
    """Name and recorded architecture of an encoder, bands and frames of its picture -> the encoder at a random start.

    Nothing is fetched.
    """
    library, _ = split_encoder_word(word)
    if library == "timm":
        return TimmEncoder(create_timm(architecture, size))

    from transformers import AutoConfig, AutoModel

    values = json.loads(architecture)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    # Draws of their own, which no seed of ours reaches
    for name, off in (("apply_spec_augment", False), ("layerdrop", 0.0)):
        if hasattr(config, name):
            setattr(config, name, off)
    return HuggingFaceEncoder(AutoModel.from_config(config))


@cache
def load_published_weights(word: str, architecture: str, revision: str, size: tuple[int, int]) -> dict[str, Tensor]:
    """Name of an encoder, its architecture, its revision and the size of its picture -> the tensors of
    `build_named_encoder`; read once, as a sweep asks every trial."""
    library, name = split_encoder_word(word)
    if library == "timm":
        network = read_published(word, "its weights", lambda: create_timm(architecture, size, pretrained=True))
    else:
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()  # of reading a file; a download shows its own
        network, told = read_published(
            word,
            "its weights",
            lambda: AutoModel.from_pretrained(
                name,
                revision=revision or None,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            ),
        )
        fill_missing(word, network, told["missing_keys"])
    return {f"network.{key}": value for key, value in network.state_dict().items()}


def fill_missing(word: str, network: nn.Module, missing: Iterable[str]) -> None:
    """Put zeros where transformers drew at random what a checkpoint lacks. Errors: a tensor that layers depend on."""
    if needed := sorted(name for name in missing if name.split(".")[-1] not in UNUSED):
        raise UsageError(
            f"encoder={word}: its checkpoint lacks {needed[0]}{f' and {len(needed) - 1} more' if needed[1:] else ''}, "
            "so these weights would be drawn at random; take a complete one"
        )
    with torch.no_grad():
        for name in missing:
            network.get_parameter(name).zero_()


@cache
def digest_published_weights(word: str, architecture: str, revision: str) -> str:
    """-> SHA-256 of the tensors behind a name, whatever file they come in; of timm those of its own picture's size."""
    return digest_tensors(load_published_weights(word, architecture, revision, (0, 0)))


def create_timm(name: str, size: tuple[int, int] = (0, 0), *, pretrained: bool = False) -> Any:
    """Name of timm -> its network for log-mels of one channel without a head; size (0, 0) is the network's own.
    Errors: an unknown name, a size that it cannot have, a network whose blocks timm cannot show."""
    import timm

    plain = name.split(".")[0]
    if not timm.is_model(plain):
        nearest = difflib.get_close_matches(plain, timm.list_models(), n=1, cutoff=0.0)[0]
        raise UsageError(f"encoder=timm/{name}: timm has no such network; the nearest is timm/{nearest}")
    common: dict[str, Any] = {"pretrained": pretrained, "in_chans": 1, "num_classes": 0}
    try:
        network = timm.create_model(name, **common, **({"img_size": size} if any(size) else {}))
    except TypeError:  # convolutions take a picture of any size, and have no such argument
        network = timm.create_model(name, **common)
    except (AssertionError, ValueError) as error:
        if pretrained:
            raise
        raise UsageError(
            f"encoder=timm/{name}: cannot see a picture of {size[0]} x {size[1]} ({error}); set features.bands and "
            "features.frames"
        ) from error
    if not hasattr(network, "forward_intermediates") or not getattr(network, "feature_info", None):
        raise UsageError(
            f"encoder=timm/{name}: timm does not show the outputs of its blocks; take another (vit_…, convnext…)"
        )
    return network


class TimmEncoder(nn.Module):
    """(B, 1, bands, frames) -> list of `depth` outputs (B, T, D) of a timm network's blocks or stages, T places of a
    map, row by row."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.channels = [int(each["num_chs"]) for each in network.feature_info]
        self.depth = len(self.channels)

    def forward(self, picture: Tensor, layout: Layout = "flat") -> list[Tensor]:
        maps = self.network.forward_intermediates(picture, intermediates_only=True, norm=False)
        return [each.flatten(2).transpose(1, 2) for each in maps]

    def layer_widths(self, layout: Layout = "flat") -> list[int]:
        """-> D of every layer."""
        return list(self.channels)


class HuggingFaceEncoder(nn.Module):
    """(B, 1, 128, frames) filter bank, or waves (B, N) -> list of `depth` outputs (B, T, D) of a transformer's blocks,
    without the two tokens that AST has before its patches."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.depth, self.dim = network, network.config.num_hidden_layers, network.config.hidden_size
        self.is_ast = network.config.model_type == AST_TYPE

    def forward(self, features: Tensor, layout: Layout = "flat") -> list[Tensor]:
        given = features[:, 0].transpose(1, 2) if self.is_ast else features
        states = self.network(given, output_hidden_states=True).hidden_states[1:]
        return [each[:, PREFIX_TOKENS:] if self.is_ast else each for each in states]


class NormaliseWave(nn.Module):
    """Wave (B, N) -> the same with mean 0 and variance 1, as Wav2Vec2FeatureExtractor."""

    def forward(self, wave: Tensor) -> Tensor:
        centred = wave - wave.mean(dim=1, keepdim=True)
        return centred / (centred.square().mean(dim=1, keepdim=True) + VARIANCE_FLOOR).sqrt()


class FillFrames(nn.Module):
    """(B, 1, bands, frames) -> (B, 1, bands, `frames`): frames of `value` follow, as ASTFeatureExtractor pads."""

    def __init__(self, frames: int, value: float) -> None:
        super().__init__()
        self.frames, self.value = frames, value

    def forward(self, fbank: Tensor) -> Tensor:
        return F.pad(fbank, (0, self.frames - fbank.shape[-1]), value=self.value)
