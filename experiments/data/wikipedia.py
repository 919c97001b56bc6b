"""The built-in text: articles of the English Wikipedia, as lines of running text.

`wikipedia_sample.md` has their licence and where they come from.
"""

from __future__ import annotations

import bz2
import hashlib
import json
from pathlib import Path

from experiments.errors import UserError
from experiments.files import DamagedFileError, read_regular

SAMPLE = Path(__file__).with_name("wikipedia_sample.json.bz2")
SHA256 = "1368ec7817439e6c91713a7733afef91c92f3462f8d64b95127d50b29c415161"


def articles() -> list[list[str]]:
    """The lines of every article: title, headings and paragraphs.

    Raises:
        UserError: the file is missing, cannot be read, or is not the one that came with the code.
    """
    try:
        content = read_regular(SAMPLE)
    except FileNotFoundError:
        raise UserError(f"{SAMPLE}: is not there; {_fix()}") from None
    except DamagedFileError as error:
        raise UserError(f"{error}; {_fix()}") from None
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise UserError(f"{SAMPLE}: damaged; {_fix()}")
    return [article["text"].split("\n") for article in json.loads(bz2.decompress(content))]


def _fix() -> str:
    return f"git -C {SAMPLE.parent} checkout {SAMPLE.name} brings it back"
