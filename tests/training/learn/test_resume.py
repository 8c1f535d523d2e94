"""State and curve of a training on disk."""

import torch

from training.learn.resume import CURVE, Curve, has_state, load_state, read_curve, save_state


def made():
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


def step(model, optimizer):
    model(torch.ones(3, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_restored_state_goes_on_to_the_bit(tmp_path):
    model, optimizer = made()
    step(model, optimizer)
    assert not has_state(tmp_path)
    save_state(tmp_path, model, [optimizer], {"update": 1}, {"mask": torch.tensor([True])})
    step(model, optimizer)
    again, other = made()
    progress, extra = load_state(tmp_path, again, [other])
    step(again, other)
    assert (progress, extra["mask"].tolist()) == ({"update": 1}, [True])
    assert torch.equal(model.weight, again.weight)


def test_a_second_state_replaces_the_first(tmp_path):
    model, optimizer = made()
    for update in (1, 2, 3):
        step(model, optimizer)
        save_state(tmp_path, model, [optimizer], {"update": update})
    assert load_state(tmp_path, *made()[:1], [made()[1]])[0] == {"update": 3}
    assert len(list(tmp_path.glob("state-*.safetensors"))) == 2
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


def test_a_curve_drops_what_lies_beyond_its_start_and_a_line_cut_short(tmp_path):
    curve = Curve(tmp_path / CURVE, 0)
    for steps in (64, 128):
        curve.add(steps, {"a": 1.0, "undefined": float("nan")})
    with (tmp_path / CURVE).open("a") as file:
        file.write('{"global_st')
    assert read_curve(tmp_path / CURVE)[-1] == {"global_step": 128, "a": 1.0}
    Curve(tmp_path / CURVE, 64)
    assert [line["global_step"] for line in read_curve(tmp_path / CURVE)] == [64]
    Curve(tmp_path / CURVE, 0)
    assert read_curve(tmp_path / CURVE) == []
