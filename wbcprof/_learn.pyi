import numpy as np

def update_signatures(
    signatures: np.ndarray,
    A: np.ndarray,
    C: np.ndarray,
    gradient: np.ndarray,
    moved: np.ndarray,
    n_threads: int,
) -> None: ...
def add_statistics(
    start: np.ndarray,
    index: np.ndarray,
    value: np.ndarray,
    patches: np.ndarray,
    A: np.ndarray,
    C: np.ndarray,
    n_threads: int,
) -> None: ...
def subtract_rebuilt(
    start: np.ndarray,
    index: np.ndarray,
    value: np.ndarray,
    signatures: np.ndarray,
    rows: np.ndarray,
    n_threads: int,
) -> None: ...
