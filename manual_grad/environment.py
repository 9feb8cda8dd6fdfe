"""The versions and the device behind a result, recorded in every JSON file that the project writes."""

import errno
import importlib.metadata
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """Versions of Python, JAX, NumPy and this project, and the device that computes.

    >>> environment()["device"]
    'cpu'
    """
    import jax

    device = jax.devices()[0]
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    return {
        "manual_grad": importlib.metadata.version("manual-grad"),
        "python": platform.python_version(),
        **versions,
        "system": platform.system(),
        "machine": platform.machine(),
        "device": device.platform,
        "device_kind": device.device_kind,
        "threads": os.cpu_count(),
    }


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as JSON, as :func:`write_bytes` does.

    Raises:
        OSError: the folder does not exist or cannot be written; nothing is left behind.
    """
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` under a temporary name in the same folder, then rename it.

    Raises:
        OSError: the folder does not exist or cannot be written, or ``path`` is a device or pipe, which the
            new file would replace; nothing is left behind.
    """
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "it is a device, a pipe or a folder", str(path))
    with tempfile.NamedTemporaryFile("wb", dir=path.parent, suffix=".part", delete=False) as part:
        try:
            part.write(content)
            part.close()
            os.chmod(part.name, 0o666 & ~_umask())
            os.replace(part.name, path)
        except BaseException:
            os.unlink(part.name)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
