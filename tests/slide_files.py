"""Slide files of scanners, as far as tests need them: written here, since openslide writes none."""

import io

import numpy as np

APERIO = "Aperio Image Library v11.2.1\n{columns}x{rows}{scaled} |AppMag = 40|MPP = 0.2500"
PHILIPS = (
    '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
    '<Attribute Name="PIM_DP_SCANNED_IMAGES" Group="0x301D" Element="0x1003" '
    'PMSVR="IDataObjectArray"><Array><DataObject ObjectType="DPScannedImage">'
    '<Attribute Name="PIM_DP_IMAGE_TYPE" Group="0x301D" Element="0x1004" PMSVR="IString">WSI'
    '</Attribute><Attribute Name="DICOM_PIXEL_SPACING" Group="0x0028" Element="0x0030" '
    'PMSVR="IDoubleArray">"0.00025" "0.00025"</Attribute>'
    '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" Group="0x1001" '
    'Element="0x8B13" PMSVR="IDataObjectArray"><Array>{levels}</Array></Attribute></DataObject>'
    "</Array></Attribute></DataObject>"
)
PHILIPS_LEVEL = (
    '<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING" '
    'Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">"{spacing}" "{spacing}"</Attribute>'
    "</DataObject>"
)
TILE = 256


def pattern(rows, columns):
    """A smooth image (rows, columns, 3) in which each place looks like no other near it."""
    y, x = np.mgrid[:rows, :columns]
    red = 128 + 100 * np.sin(x / 40) * np.cos(y / 55)
    return np.stack([red, x * 255 // columns, y * 255 // rows], 2).astype(np.uint8)


def smaller(pixels, times):
    """Means of squares of so many pixels."""
    rows, columns = (side // times * times for side in pixels.shape[:2])
    squares = pixels[:rows, :columns].reshape(rows // times, times, columns // times, times, 3)
    return squares.mean((1, 3)).astype(np.uint8)


def write_pyramid(path, pixels, compression=None, **how):
    """OME-TIFF with two smaller levels, of 0.25 um."""
    import tifffile

    with tifffile.TiffWriter(path, **how) as tiff:
        shared = dict(tile=(TILE, TILE), photometric="rgb", compression=compression)
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm"}
        tiff.write(pixels, subifds=2, metadata=metadata, **shared)
        for times in (2, 4):
            tiff.write(smaller(pixels, times), subfiletype=1, **shared)
    return path


def write_svs(path, pixels):
    """Aperio SVS of two levels, with a thumbnail between them, as that scanner has it."""
    import tifffile

    with tifffile.TiffWriter(path) as tiff:
        for times, kind in ((1, ""), (8, " thumbnail"), (4, "")):
            level = smaller(pixels, times)
            text = APERIO.format(
                columns=pixels.shape[1],
                rows=pixels.shape[0],
                scaled=f" -> {level.shape[1]}x{level.shape[0]}{kind}" if times > 1 else "",
            )
            layout = {"rowsperstrip": 16} if kind else {"tile": (TILE, TILE)}
            tiff.write(
                level, photometric="rgb", compression="jpeg", compressionargs={"level": 95},
                metadata=None, description=text, **layout,
            )  # fmt: skip
    return path


def write_philips(path, pixels, taken):
    """Philips TIFF of three levels; where `taken` (H / 256, W / 256) is False, it has no data."""
    import tifffile

    levels = "".join(PHILIPS_LEVEL.format(spacing=0.00025 * times) for times in (1, 2, 4))
    with tifffile.TiffWriter(path) as tiff:
        for times in (1, 2, 4):
            level = smaller(pixels, times)
            shown = np.repeat(np.repeat(taken, TILE // times, 0), TILE // times, 1)
            tiff.write(
                _philips_tiles(level, shown), shape=level.shape, dtype=level.dtype,
                tile=(TILE, TILE), photometric="rgb", compression="jpeg", metadata=None,
                description=PHILIPS.format(levels=levels) if times == 1 else None,
                software="Philips DP v1.0", subfiletype=int(times > 1),
            )  # fmt: skip
    return path


def _philips_tiles(level, shown):
    for top in range(0, level.shape[0], TILE):
        for left in range(0, level.shape[1], TILE):
            here = slice(top, top + TILE), slice(left, left + TILE)
            yield np.ascontiguousarray(level[here]) if shown[here].any() else None


def write_dicom(path, pixels, series, number=1, spacing=0.00025):
    """One level of a slide as DICOM has it, tiled in full."""
    from PIL import Image
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit, generate_uid

    rows, columns = pixels.shape[:2]
    frames = []
    for top in range(0, rows, TILE):
        for left in range(0, columns, TILE):
            frame = np.full((TILE, TILE, 3), 255, np.uint8)
            cut = pixels[top : top + TILE, left : left + TILE]
            frame[: cut.shape[0], : cut.shape[1]] = cut
            file = io.BytesIO()
            Image.fromarray(frame).save(file, "JPEG", quality=95, subsampling=0)
            frames.append(file.getvalue())

    spacings, shared = Dataset(), Dataset()
    spacings.PixelSpacing = [spacing, spacing]
    shared.PixelMeasuresSequence = [spacings]
    head, level = FileMetaDataset(), Dataset()
    level.file_meta = head
    level.SOPClassUID = head.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    level.SOPInstanceUID = head.MediaStorageSOPInstanceUID = generate_uid()
    head.TransferSyntaxUID = JPEGBaseline8Bit
    level.Modality, level.StudyInstanceUID, level.SeriesInstanceUID = "SM", "1.2.3", series
    level.InstanceNumber = number
    kind = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    level.ImageType = kind if number == 1 else ["DERIVED", *kind[1:3], "RESAMPLED"]
    level.SamplesPerPixel, level.PhotometricInterpretation = 3, "YBR_FULL_422"
    level.PlanarConfiguration, level.PixelRepresentation = 0, 0
    level.Rows = level.Columns = TILE
    level.BitsAllocated, level.BitsStored, level.HighBit = 8, 8, 7
    level.NumberOfFrames = len(frames)
    level.TotalPixelMatrixRows, level.TotalPixelMatrixColumns = rows, columns
    level.TotalPixelMatrixFocalPlanes = level.NumberOfOpticalPaths = 1
    level.DimensionOrganizationType = "TILED_FULL"
    level.SharedFunctionalGroupsSequence = [shared]
    level.PixelData = encapsulate(frames)
    level["PixelData"].is_undefined_length = True
    level.save_as(path, enforce_file_format=True)
    return path
