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
    cell_of_row: np.ndarray,
    cell_of_column: np.ndarray,
    pool_columns: int,
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
    max: np.ndarray | None,
    active: np.ndarray | None,
    n_threads: int,
) -> None: ...
