"""What was learnt, at work on images: profiles, codes, reconstructions, files."""

from typing import TYPE_CHECKING

from wbcprof._lazy import attach

if TYPE_CHECKING:  # what `__getattr__` gives
    from wbcprof.model.model import Model as Model
    from wbcprof.model.model import ToleranceWarning as ToleranceWarning
    from wbcprof.model.model import load as load
    from wbcprof.model.pooling import Pooling as Pooling
    from wbcprof.model.profiles import Profiles as Profiles
    from wbcprof.model.sparse import sparse_encode as sparse_encode
    from wbcprof.model.storage import ModelFileError as ModelFileError

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "model": ["Model", "ToleranceWarning", "load"],
        "pooling": ["Pooling"],
        "profiles": ["Profiles"],
        "sparse": ["sparse_encode"],
        "storage": ["ModelFileError"],
    },
)
