"""Recording attempts with their running marks."""

import pyarrow.parquet as pq
import pytest

from controller.bundled import bundled
from controller.errors import ConfigError
from recipes import drop_record

LESS = {"model": str(bundled("small")), "questions": None, "limits": (2, 0, 1), "samples": 2}
LESS |= {"group": 4, "max_new_tokens": 12, "temperature": 0.5, "licence": None, "at_once": 1}


def test_an_interrupted_recording_goes_on_as_it_was_begun(tmp_path, monkeypatch):
    drop_record.main(tmp_path / "whole", **LESS)
    record, asked = drop_record.record, []

    def interrupted(backend, questions, samples, group):
        asked.append(questions)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return record(backend, questions, samples, group)

    monkeypatch.setattr(drop_record, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        drop_record.main(tmp_path / "parts", **LESS)
    with pytest.raises(ConfigError, match="expected the decoding that it was begun with"):
        drop_record.main(tmp_path / "parts", **LESS | {"temperature": 0.7})
    drop_record.main(tmp_path / "parts", **LESS)
    assert len(asked) == 4
    whole, parts = (pq.read_table(tmp_path / n / "attempts.parquet") for n in ("whole", "parts"))
    same = ["question_id", "text", "groups", "places"]
    assert parts.select(same).equals(whole.select(same))
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )
