"""Losses: tensors and plain numbers in, a scalar out."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rales.training.recipe import LossContext


def class_weights(counts: Sequence[int]) -> Tensor:
    """Cycles per class -> (classes,) weights 1 / frequency, summing to 1 (public code of [11]).

    A class without cycles gets weight 0: it cannot appear in the loss.
    """
    count = torch.tensor(counts, dtype=torch.float64)
    inverse = torch.where(count > 0, count.sum() / count.clamp(min=1), 0.0)
    return (inverse / inverse.sum()).float()


def positive_weights(positives: Sequence[int], rows: int) -> Tensor:
    """Rows that have each of several independent classes, and all rows -> (classes,) weights negatives / positives of
    the yes answers, so that both answers count alike.

    A class without rows gets weight 0, as in `class_weights`; one that all rows have gets 1.
    """
    count = torch.tensor(positives, dtype=torch.float64)
    weight = torch.where(count < rows, (rows - count) / count.clamp(min=1), 1.0)
    return torch.where(count > 0, weight, 0.0).float()


def weighted_cross_entropy(
    logits: Tensor, label: Tensor, whole_label: Tensor, weight: Tensor, smoothing: float = 0.0
) -> Tensor:
    """(b, classes) logits, (b,) labels of one piece, (B,) labels of the whole batch, (classes,) -> scalar.

    The weighted mean of torch, but divided by the weights of the whole batch: the pieces of a batch (gradient
    accumulation, several devices) then add up to the loss of the batch in one piece. `smoothing` is the share of each
    target that all classes have evenly. Labels (b, classes) and (B, classes) of 0 and 1 are of independent classes:
    binary cross-entropy, whose yes answers have the weights; there `smoothing` goes to both answers evenly.
    """
    if label.ndim == 2:
        target = label.float() * (1 - smoothing) + smoothing / 2
        answers = F.binary_cross_entropy_with_logits(logits.float(), target, pos_weight=weight, reduction="sum")
        return answers / torch.where(whole_label > 0, weight, 1.0).sum()
    total = F.cross_entropy(logits.float(), label, weight, reduction="sum", label_smoothing=smoothing)
    return total / weight[whole_label].sum()


def weighted_loss(model: nn.Module, features: Tensor, step: LossContext) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of one micro-batch (paper 4.3), of independent classes binary, and its logits; of mixed
    clips, that of both labels."""
    logits = model(features)

    def loss_of(label: Tensor) -> Tensor:
        smoothing = step.settings.train.label_smoothing
        return weighted_cross_entropy(logits, label, step.whole_label, step.weight, smoothing)

    if step.mixture is None:
        return loss_of(step.label), logits
    # both parts have the divisor of the whole batch: as each clip is mixed in once, their weights add up to the same
    kept = step.mixture.kept
    return kept * loss_of(step.label) + (1 - kept) * loss_of(step.mixture.label), logits


def soft_binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """(B, classes) logits and targets in [0, 1] -> scalar: binary cross-entropy of each class, mean over all.

    "Both" is [0, 0, 0, 1], not [0, 1, 1, 0] (LungRN+NL, LungAttn).
    """
    return F.binary_cross_entropy_with_logits(logits.float(), target.float())


def soft_divergence(logits: Tensor, soft: Tensor, temperature: float, rows: int) -> Tensor:
    """(b, classes) logits and teachers' probabilities at the temperature, rows of the whole batch -> scalar: mean over
    these rows of temperature^2 times KL(teachers || student at the temperature) (Hinton et al. 2015)."""
    student = (logits.float() / temperature).log_softmax(dim=1)
    return temperature**2 * F.kl_div(student, soft.float(), reduction="sum") / rows


def augment_representation(
    features: Tensor, label: Tensor, *, mask_share: float, noise: float, generator: torch.Generator
) -> Tensor:
    """(b, D) features, labels -> the same as RepAugment changes them: each feature is with probability `mask_share` the
    mean of its clip's (Rep-Mask), and cycles that are not normal get noise of this deviation (Rep-Gen).

    Source: Kim et al. 2024 (arXiv 2405.02996) as its readers report it and as its authors' later code does Rep-Gen.
    """
    masked = (torch.rand(features.shape, generator=generator) < mask_share).to(features.device, non_blocking=True)
    changed = torch.where(masked, features.mean(dim=1, keepdim=True), features)
    abnormal = (label.sum(dim=1) if label.ndim == 2 else label) > 0
    drawn = torch.randn(features.shape, generator=generator).to(features.device, non_blocking=True)
    return changed + noise * drawn * abnormal[:, None]


def sup_con(features: Tensor, label: Tensor, temperature: float = 0.06) -> Tensor:
    """(A, D) features of all views, (A,) labels -> scalar: supervised contrastive loss (Khosla et al. 2020).

    Mean over anchors of - mean over their positives of log softmax of cosine / temperature over all others; positives
    share the anchor's label. Rows with a negative label (unknown) take no part, anchors without positives do not count.
    """
    known = label >= 0
    z, label = F.normalize(features[known].float(), dim=1), label[known]
    if len(z) < 2:
        return z.sum() * 0  # nobody to compare with
    self_pair = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_share = (z @ z.T / temperature).masked_fill(self_pair, -torch.inf).log_softmax(dim=1)
    positive = (label[:, None] == label[None, :]) & ~self_pair
    count = positive.sum(dim=1)
    per_anchor = -torch.where(positive, log_share, 0).sum(dim=1) / count.clamp(min=1)
    return per_anchor.sum() / (count > 0).sum().clamp(min=1)


def multi_sup_con(
    class_features: Tensor,
    label: Tensor,
    metadata_features: Tensor,
    metadata: Tensor,
    *,
    class_share: float = 0.75,
    temperature: float = 0.06,
) -> Tensor:
    """Features of two projectors (A, D), class labels and metadata groups (A,) -> scalar: M-SCL (Moummad & Farrugia).

    Groups are sex x age; a negative group is unknown and stays out of the metadata term.
    """
    of_class = sup_con(class_features, label, temperature)
    return class_share * of_class + (1 - class_share) * sup_con(metadata_features, metadata, temperature)


def hybrid_sup_con(contrastive: Tensor, cross_entropy: Tensor, share: float = 0.5) -> Tensor:
    """Two scalars -> share * contrastive + (1 - share) * cross-entropy (Moummad & Farrugia's hybrid)."""
    return share * contrastive + (1 - share) * cross_entropy


def patch_mix_contrastive(
    mixed: Tensor, clean: Tensor, order: Tensor, kept: float, *, temperature: float = 0.06
) -> Tensor:
    """Projected features of mixed clips (B, D), features of the clean ones (B, D) -> scalar (Patch-Mix CL).

    Each mixed clip should find its two sources among the clean ones: -(kept log p_ii + (1 - kept) log p_i,order(i)),
    p = softmax of cosine / temperature over the batch. The clean side is detached.
    """
    anchor, target = F.normalize(mixed.float(), dim=1), F.normalize(clean.detach().float(), dim=1)
    log_share = (anchor @ target.T / temperature).log_softmax(dim=1)
    row = torch.arange(len(log_share), device=log_share.device)
    return -(kept * log_share[row, row] + (1 - kept) * log_share[row, order]).mean()


def pafa(features: Tensor, patient: Tensor, *, cohesion: float = 50.0, alignment: float = 0.001) -> Tensor:
    """Projected features (B, D), patient numbers (B,) -> scalar: patient-aware feature alignment.

    With c_p the mean of a patient's rows, W the squared distances of all rows to that of their patient, and S those of
    the P means to the mean of these means: cohesion * W / (P S + 1e-6) + alignment * S / P. P S is the sum over pairs
    of patients of their squared distance. Rows of unknown patients (negative) take no part; one patient alone gives 0.
    Source: wa976/Patient-Aware-Feature-Alignment, method/pafa.py (Jeong & Kim, Interspeech 2025).
    """
    known = patient >= 0
    z = features[known].float()
    _, group, size = torch.unique(patient[known], return_inverse=True, return_counts=True)
    if len(size) < 2:
        return z.sum() * 0
    centres = torch.zeros(len(size), z.shape[1], device=z.device).index_add(0, group, z) / size[:, None]
    within = (z - centres[group]).square().sum()
    spread = (centres - centres.mean(dim=0)).square().sum()
    loss: Tensor = cohesion * within / (len(size) * spread + 1e-6) + alignment * spread / len(size)
    return loss


def reverse_gradient(x: Tensor, strength: float) -> Tensor:
    """The same numbers, whose gradient arrives reversed and multiplied by `strength` (Ganin et al. 2016)."""
    return x + (1 + strength) * (x.detach() - x)  # what is added is 0; its gradient is -(1 + strength)


def reversal_strength(progress: float) -> float:
    """Share of the training that is over -> strength of the reversed gradient, 2 / (1 + exp(-10 progress)) - 1: 0 at
    the start, 0.987 in the middle (Ganin et al. 2016)."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


def published_progress(step: int, steps_an_epoch: int, epochs: int) -> float:
    """Steps done, of an epoch, epochs of the run -> what SG-SCL's code puts in the place of the progress.

    Its epochs count from 1 and the steps are divided by the epochs alone: (step + n) / epochs + 1 / n with n steps an
    epoch. On ICBHI that is above 10 from the first step on, so that the strength is 1 throughout.
    Source: kaen2891/stethoscope-guided_supervised_contrastive_learning, main.py.
    """
    return (step + steps_an_epoch) / epochs + 1 / steps_an_epoch


def co_tuning(source_logits: Tensor, label: Tensor, relationship: Tensor) -> Tensor:
    """(B, S) logits of the kept source head, (B,) target labels, (classes, S) relationship -> scalar.

    Cross-entropy of the source head with p(source | target) as its target (You et al. 2020); weigh it with lambda, 2.3
    in the original, 0.3 in re-implementations on ICBHI.
    """
    return -(relationship[label] * source_logits.float().log_softmax(dim=1)).sum(dim=1).mean()


# multiplies the logits: calibration of torchvision's ResNet-50 V1; other weights need another
SOURCE_TEMPERATURE = 0.8840
INVERSE_REGULARISATION = (
    *(1e4, 3e3, 1e3, 3e2, 1e2, 30.0, 10.0, 3.0, 1.0),
    *(0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4),
)


def category_relationship(
    train_logits: Tensor,
    train_label: Tensor,
    validation_logits: Tensor,
    validation_label: Tensor,
    *,
    temperature: float = SOURCE_TEMPERATURE,
) -> Tensor:
    """Source logits (n, S) and target labels (n,) of both parts, network in evaluation mode -> p(source | target).

    (classes, S), rows sum to 1. Multinomial logistic regression without intercept from source probabilities to target
    classes gives p(target | source); its strength is chosen by validation accuracy, its scale by validation likelihood
    (one number, so a bounded search does what L-BFGS does there). Bayes with the mean source probabilities of both
    parts turns it round. Source: thuml/CoTuning. Errors: a class that the train part lacks.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar
    from sklearn.linear_model import LogisticRegression

    classes = int(torch.cat([train_label, validation_label]).max()) + 1
    if len(torch.unique(train_label)) < classes or classes < 2:
        raise ValueError(
            f"the train part has classes {torch.unique(train_label).tolist()}; expected 0 to {max(classes - 1, 1)}, "
            "each with at least one cycle"
        )
    train, validation = ((temperature * x.double()).softmax(dim=1).numpy() for x in (train_logits, validation_logits))
    known, true = train_label.numpy(), validation_label.numpy()
    fits = [
        LogisticRegression(C=c, fit_intercept=False, max_iter=10_000).fit(train, known) for c in INVERSE_REGULARISATION
    ]
    best = max(fits, key=lambda fit: float((fit.predict(validation) == true).mean()))  # the first of equals
    weight = torch.from_numpy(best.coef_)
    if classes == 2:  # scikit-learn keeps one row, the difference of the two
        weight = torch.cat([torch.zeros_like(weight), weight])
    scores = torch.from_numpy(validation) @ weight.T

    def unlikelihood(log_scale: float) -> float:
        return float(F.cross_entropy(float(np.exp(log_scale)) * scores, validation_label))

    scale = float(np.exp(minimize_scalar(unlikelihood, bounds=(-7, 7), method="bounded").x))
    target_given_source = (scale * weight.T).softmax(dim=1)  # (S, classes)
    source = torch.from_numpy(np.concatenate([train, validation])).mean(dim=0)
    joint = (target_given_source * source[:, None]).T
    return (joint / joint.sum(dim=1, keepdim=True)).float()
