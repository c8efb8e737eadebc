import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]

SIGNATURE_BLOCK: int
MAX_POINTS: int
NONLINEARITIES: dict[str, int]

def instruction_set() -> str: ...
def instruction_sets() -> list[str]: ...
def cap_instruction_set(name: str) -> None: ...

class Filters:
    def __init__(
        self,
        patch: int,
        step: int,
        square: int,
        dilation: int,
        taps: int,
        tile: int,
        input_transforms: _Floats,
        output_transforms: _Floats,
        projection: _Floats | None,
        filters: _Floats,
    ) -> None: ...

class Units:
    def __init__(
        self,
        offset: _Floats,
        gain: _Floats,
        threshold: _Floats,
        colour: _Floats,
        nonlinearity: str,
        contrast_epsilon: float | None,
        pixel_table: _Floats,
    ) -> None: ...

class Statistics:
    def __init__(
        self,
        shift: _Floats | None,
        sum: _Floats | None,
        square: _Floats | None,
        lost: _Floats | None,
        max: _Floats | None,
        active: _Floats | None,
    ) -> None: ...
    @property
    def shift(self) -> _Floats | None: ...
    @property
    def sum(self) -> _Floats | None: ...
    @property
    def square(self) -> _Floats | None: ...
    @property
    def max(self) -> _Floats | None: ...
    @property
    def active(self) -> _Floats | None: ...

def encode_pool(
    filters: Filters,
    units: Units,
    images: NDArray[np.uint8] | _Floats,
    part_of_window: NDArray[np.int32],
    n_parts: int,
    statistics: Statistics,
    n_threads: int,
) -> None: ...
def correlate(patches: _Floats, signatures: _Floats, out: _Floats) -> None: ...

class Lasso:
    def __init__(
        self,
        gram: _Floats,
        alpha: float,
        positive: bool,
        greedy: bool,
        tol: float,
        max_iter: int,
        max_active: int,
    ) -> None: ...

def sparse_code(
    problem: Lasso,
    linear: _Floats,
    energy: NDArray[np.float64],
    index: NDArray[np.int32],
    value: _Floats,
    count: NDArray[np.int32],
    gap: _Floats,
    n_threads: int,
) -> None: ...
def pack_rows(
    index: NDArray[np.int32],
    value: _Floats,
    count: NDArray[np.int32],
    packed_index: NDArray[np.int32],
    packed_value: _Floats,
) -> None: ...
def find_leukocyte(
    image: NDArray[np.uint8],
) -> tuple[
    float,
    tuple[int, int, int],
    float,
    float,
    float,
    tuple[float, float],
    tuple[float, float, float],
    float,
]: ...
def resample_square(
    image: NDArray[np.uint8],
    y: float,
    x: float,
    scale: float,
    background: NDArray[np.uint8],
    tables: NDArray[np.uint8],
    fade: NDArray[np.int16],
    white: int,
    out: NDArray[np.uint8],
) -> None: ...
def match_focus(cell: NDArray[np.uint8], fade: NDArray[np.int16], wanted: float) -> float: ...
def measure_light(
    field: NDArray[np.uint8],
    factor: int,
    top: int,
    bottom: int,
    lefts: NDArray[np.int32],
    light: NDArray[np.uint8],
) -> None: ...
def stain_field(
    field: NDArray[np.uint8],
    factor: int,
    top: int,
    left: int,
    light: NDArray[np.int32],
    down: NDArray[np.int32],
    across: NDArray[np.int32],
    density: NDArray[np.int16],
    stained: NDArray[np.int16],
) -> None: ...
def find_leukocytes(
    density: NDArray[np.int16],
    stained: NDArray[np.int16],
    unit: float,
    foreground: int,
    red_cells: float,
    level: float,
    n_densest: int,
    low: int,
    contrast: float,
    colour: float,
    nuclei: NDArray[np.int32],
    cells: NDArray[np.int32],
    found: NDArray[np.float64],
) -> int: ...
