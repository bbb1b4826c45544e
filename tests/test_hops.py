"""How far it is from the command to the network, as docs/data-flow.md says."""

import importlib.util
import re
from pathlib import Path
from unittest import mock

from rales.models import FusionClassifier
from tests import tiny

ROOT = Path(__file__).parent.parent


def test_predict_is_as_near_to_the_network_as_the_page_says(tmp_path: Path) -> None:
    told = re.search(r"`rales predict` \| the network \| (\d+) \|", (ROOT / "docs" / "data-flow.md").read_text())
    spec = importlib.util.spec_from_file_location("trace_hops", ROOT / "scripts" / "trace_hops.py")
    assert told
    assert spec
    assert spec.loader
    trace_hops = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trace_hops)
    data = tiny.write_folder(tmp_path / "data")
    tiny.save(tiny.model(), tmp_path / "model.safetensors")

    forward, chains = FusionClassifier.forward, []

    def noted(self: FusionClassifier, *arguments: object, **options: object) -> object:
        chains.append([call for call in trace_hops.current_calls() if call[0] not in trace_hops.BEFORE])
        return forward(self, *arguments, **options)  # type: ignore[arg-type]

    words = ("--model", tmp_path / "model.safetensors", "--out", tmp_path / "a.csv")
    with trace_hops.followed_into_threads(), mock.patch.object(FusionClassifier, "forward", noted):
        trace_hops.run_command("predict", next(data.glob("*.wav")), *words)
    assert len(chains[0]) == int(told[1])  # the calls before the network's own, so as many as hops
