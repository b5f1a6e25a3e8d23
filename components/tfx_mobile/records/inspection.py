"""What `tfx-mobile inspect` prints."""

from __future__ import annotations

from typing import Literal

from tfx_mobile.records.base import Record
from tfx_mobile.records.conversion import Failure
from tfx_mobile.records.model_files import Finding, ModelFileRecord, ProfileResult


class QuantizationRecord(Record):
    """Quantization parameters of a tensor: real = (q - zero_point) * scale.

    Attributes:
        scales: One, or one per slice of `dimension`; None where the file has a value that is not finite.
        zero_points: One, or one per slice.
        dimension: The quantized dimension; meaningless with a single scale.
    """

    scales: tuple[float | None, ...]
    zero_points: tuple[int, ...]
    dimension: int


class FileTensorRecord(Record):
    """One tensor of a file.

    Attributes:
        subgraph: Index of its subgraph.
        index: Its index there.
        name: Its name in the graph, which is not its name in a signature.
        dtype: Lower-case name of the element type; `unknown_<code>` for one that is newer than this package.
        shape: Shape with -1 where the size is open.
        constant_bytes: Size of its constant data in the file; 0 if it has none.
        variable: Whether it keeps its value from one run to the next.
        sparse: Whether its constant data are stored sparsely.
        quantization: None for a tensor that is not quantized.
    """

    subgraph: int
    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    constant_bytes: int
    variable: bool = False
    sparse: bool = False
    quantization: QuantizationRecord | None = None


class SizePart(Record):
    """A part of a file's bytes.

    Attributes:
        part: `weights <dtype>`, `metadata <name>`, `associated files`, `unused buffers`, or `graph` for all the rest.
        bytes: Its size; the parts add up to the size of the file.
    """

    part: str
    bytes: int


class AssociatedFileRecord(Record):
    """A file that TFLite metadata name, or that is appended to the model as a zip archive.

    Attributes:
        name: Its name.
        type: Lower-case name of its AssociatedFileType; None if the metadata do not name it.
        locale: Language of the labels; None if not said.
        size_bytes: Its size after decompression, as the archive says; None if it is not in the archive.
        compressed: Whether the archive holds it compressed; None if it is not in the archive.
        num_lines: How many lines it has; None for what is not a label file or cannot be read.
    """

    name: str
    type: str | None = None
    locale: str | None = None
    size_bytes: int | None = None
    compressed: bool | None = None
    num_lines: int | None = None


class TensorMetadataRecord(Record):
    """What TFLite metadata say about one input or output.

    Attributes:
        name: Its name.
        description: What it is.
        content: `feature`, `image`, `bounding_box`, `audio`, or None.
        color_space: `rgb` or `grayscale` for an image; None if not said.
        mean: NormalizationOptions: subtracted from a value, one number or one per channel; empty without.
        std: NormalizationOptions: what the difference is divided by.
        score_threshold: ScoreThresholdingOptions: scores below are to be dropped; None without.
        files: Its associated files.
    """

    name: str
    description: str
    content: str | None = None
    color_space: str | None = None
    mean: tuple[float | None, ...] = ()
    std: tuple[float | None, ...] = ()
    score_threshold: float | None = None
    files: tuple[AssociatedFileRecord, ...] = ()


class MetadataRecord(Record):
    """What a file says about itself as TFLite metadata.

    Attributes:
        present: Whether there are any; without, all below is empty, but for `files`.
        name: The model's name.
        description: What it does.
        version: Its version.
        author: Who made it.
        license: Its license.
        min_parser_version: Oldest version of the metadata schema that has all its fields.
        inputs: In the order of the main subgraph's inputs.
        outputs: In the order of the main subgraph's outputs.
        files: Files of the appended zip archive, and files that only the metadata name.
        problems: What could not be read, in sentences.
    """

    present: bool = False
    name: str = ""
    description: str = ""
    version: str = ""
    author: str = ""
    license: str = ""
    min_parser_version: str = ""
    inputs: tuple[TensorMetadataRecord, ...] = ()
    outputs: tuple[TensorMetadataRecord, ...] = ()
    files: tuple[AssociatedFileRecord, ...] = ()
    problems: tuple[str, ...] = ()


class InspectionRecord(Record):
    """What `tfx-mobile inspect --json` prints: all that can be known of a file.

    Attributes:
        size_bytes: Length of the file.
        failure: Why the file is refused: not a well-formed file, or it does not load or run; None if it does.
        file: What it is; None if it is not a well-formed file, and then all below is empty.
        tensors: All tensors, subgraph by subgraph.
        sizes: What the bytes are spent on; they add up to `size_bytes`.
        external_buffers: How many buffers are kept in other files.
        metadata: What it says about itself.
        profiles: What the compatibility profiles say.
        findings: Where it departs from the quantization specification.
    """

    schema_version: Literal[1] = 1
    size_bytes: int
    failure: Failure | None = None
    file: ModelFileRecord | None = None
    tensors: tuple[FileTensorRecord, ...] = ()
    sizes: tuple[SizePart, ...] = ()
    external_buffers: int = 0
    metadata: MetadataRecord = MetadataRecord()
    profiles: tuple[ProfileResult, ...] = ()
    findings: tuple[Finding, ...] = ()
