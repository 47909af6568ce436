"""Reading the `record.json` that a run leaves in its folder."""

from __future__ import annotations

import json
from pathlib import Path

from tersenet.core.errors import RecipeError, TersenetError
from tersenet.core.record import Record

FILE_NAME = "record.json"


def load_record(path: str | Path) -> Record:
    """The record of a run: of its folder, or of the JSON file itself.

    Raises TersenetError in one sentence where there is none, or where it is broken.
    """
    path = Path(path)
    file = path / FILE_NAME if path.is_dir() else path
    if not path.exists():
        raise TersenetError(f"{path}: there is no such run folder")
    if not file.exists():
        raise TersenetError(f"{path}: holds no {FILE_NAME}, so it is not the folder of a finished run")
    try:
        return Record.parse(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise TersenetError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise TersenetError(f"{file}: is not a record: not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise TersenetError(f"{file}, line {error.lineno}: is not a record: not valid JSON: {error.msg}") from None
    except RecipeError as error:
        raise TersenetError(f"{file}: is not a record of this version: {error}") from None
    except (ValueError, RecursionError) as error:
        raise TersenetError(f"{file}: is not a record: {error}") from None
