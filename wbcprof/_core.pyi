import numpy as np

SIGNATURE_BLOCK: int
MAX_POINTS: int
NONLINEARITIES: dict[str, int]

def instruction_set() -> str: ...
def instruction_sets() -> list[str]: ...
def cap_instruction_set(name: str) -> None: ...
def encode_pool(
    images: np.ndarray,
    pixel_table: np.ndarray,
    patch: int,
    step: int,
    cell_of_window: np.ndarray,
    cell: int,
    dilation: int,
    taps: int,
    tile: int,
    input_transforms: np.ndarray,
    output_transforms: np.ndarray,
    projection: np.ndarray | None,
    filters: np.ndarray,
    colour: np.ndarray,
    offset: np.ndarray,
    gain: np.ndarray,
    threshold: np.ndarray,
    nonlinearity: str,
    contrast_epsilon: float,
    n_pool_cells: int,
    shift: np.ndarray | None,
    sum: np.ndarray | None,
    square: np.ndarray | None,
    lost: np.ndarray | None,
    max: np.ndarray | None,
    active: np.ndarray | None,
    n_threads: int,
) -> None: ...
def correlate(patches: np.ndarray, signatures: np.ndarray, out: np.ndarray) -> None: ...
def sparse_code(
    gram: np.ndarray,
    linear: np.ndarray,
    energy: np.ndarray,
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
