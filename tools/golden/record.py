"""How goldens are written: JSON with library versions, long arrays as base64 of little-endian bytes.

{"shape": [...], "f32": "<base64>"} is a tensor, {"shape": [...], "u8": "<base64>"} bytes; the reader is
test/golden/load-golden.ts.
"""
import base64, importlib.metadata, json, math, pathlib, platform
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2] / "test" / "golden"


def versions(*packages: str) -> dict:
    found = {"python": platform.python_version()}
    for package in packages:
        found[package] = importlib.metadata.version(package)
    return found


def array(values) -> dict:
    """A float tensor, stored as float32 (or bytes when it is uint8)."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    values = np.asarray(values)
    if values.dtype == np.uint8:
        return {"shape": list(values.shape), "u8": base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()}
    return {
        "shape": list(values.shape),
        "f32": base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode(),
    }


def number(value, digits: int = 9) -> float:
    """A float rounded to `digits` significant digits: enough to tell any two float32 apart."""
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"a golden number is not finite: {value}")
    return float(f"{value:.{digits}g}")


def numbers(values, digits: int = 9) -> list:
    return [number(v, digits) for v in values]


def write(path: str, content: dict) -> None:
    """Writes test/golden/<path>: one key a line down to where lines become short."""
    target = ROOT / path
    target.parent.mkdir(parents=True, exist_ok=True)
    text = layout(content, "") + "\n"
    json.loads(text)
    target.write_text(text, encoding="utf-8")
    print(f"{target.relative_to(ROOT.parents[1])}  {len(text):,} bytes")


def layout(value, indent: str) -> str:
    flat = json.dumps(value, separators=(", ", ": "), ensure_ascii=False, allow_nan=False)
    if len(flat) + len(indent) <= 110 or not isinstance(value, (dict, list)):
        return flat
    inner = indent + " "
    if isinstance(value, dict):
        if set(value) in ({"shape", "f32"}, {"shape", "u8"}):
            return flat
        rows = [f"{inner}{json.dumps(k)}: {layout(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + indent + "}"
    if all(not isinstance(v, (dict, list)) for v in value):
        return flat
    return "[\n" + ",\n".join(inner + layout(v, inner) for v in value) + "\n" + indent + "]"
