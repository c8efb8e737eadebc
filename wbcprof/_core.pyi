import numpy as np

def instruction_set() -> str: ...
def instruction_sets() -> list[str]: ...
def cap_instruction_set(name: str) -> None: ...
def rows_product(
    a: np.ndarray, b: np.ndarray, out: np.ndarray, alpha: float = 1.0, beta: float = 0.0
) -> None: ...
def sparse_code(
    gram: np.ndarray,
    linear: np.ndarray,
    energy: np.ndarray,
    start: np.ndarray | None,
    start_index: np.ndarray | None,
    start_value: np.ndarray | None,
    index: np.ndarray,
    value: np.ndarray,
    count: np.ndarray,
    gap: np.ndarray,
    alpha: float,
    positive: bool,
    greedy: bool,
    tol: float,
    max_iter: int,
    max_active: int,
    n_threads: int,
) -> None: ...
def pack_rows(
    index: np.ndarray,
    value: np.ndarray,
    count: np.ndarray,
    packed_index: np.ndarray,
    packed_value: np.ndarray,
) -> None: ...
