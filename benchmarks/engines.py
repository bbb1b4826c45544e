"""A ViT-base with all twelve layers fused, by every engine, from waveform to probabilities, beside the public way.

    PYTHONPATH=. python benchmarks/engines.py  # minutes, most of them for making int8; --quick for three rounds

The public way is the ViTModel of Hugging Face transformers in the same sizes, eager float32, all hidden states,
explicit concatenation and pooling, behind the same front-end. Weights are random. All take turns in one process, round
after round; a ratio is the median over rounds of (public / this one in the same round). The share of the peak counts
the network's products against the largest product of matrices that torch reaches here in the same precision. Needs the
extras `bench`, `export` and `quantize`.
"""

import argparse
import sys

import torch
import torch.nn.functional as F
from benchmarks.vit_speed import EAGER, build

from rales.cli.result_lines import bench_lines
from rales.inference.engines import Engine, Probabilities, Waveforms
from rales.inference.predictor import Predictor
from rales.jobs.benchmark import run_benchmark


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of every engine")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rounds = 3 if options.quick else 9
    print("\n".join(bench_lines(run_benchmark(batches=tuple(options.batch), rounds=rounds, tell=say, peer=public))))


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def public(model: Predictor) -> Engine:
    """Model -> the engine of a public network of its sizes behind the model's front-end."""
    network, frames = build(EAGER)
    network.eval()

    @torch.inference_mode()
    def engine(waves: Waveforms) -> Probabilities:
        logmel = model.torch_engine.frontend(torch.from_numpy(waves))
        probabilities: Probabilities = network(F.pad(logmel, (0, frames - logmel.shape[3]))).softmax(dim=1).numpy()
        return probabilities

    return engine


if __name__ == "__main__":
    main()
