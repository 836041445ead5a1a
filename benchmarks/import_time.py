"""How long ``import mechinterp`` and ``mechinterp --help`` take, against importing TransformerLens."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measure import alternate, show


def command(*words: str):
    return lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True)


def main() -> None:
    times = alternate(
        {
            "python": command("-c", "pass"),
            "import": command("-c", "import mechinterp"),
            "help": command("-m", "mechinterp", "--help"),
            "transformer_lens": command("-c", "import transformer_lens"),
        },
        rounds=5,
        warmup=1,
    )
    seconds = {f"{name}_seconds": t["median"] for name, t in times.items()}
    ratio = times["transformer_lens"]["median"] / times["import"]["median"]
    show("import_time", {**seconds, "transformer_lens_over_import_ratio": ratio})


if __name__ == "__main__":
    main()
