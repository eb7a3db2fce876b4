"""What a derived DICOM object takes over from its source: the imaging, and the patient only where that is asked for.

Without the patient, an attribute is left out unless it is in `IMAGING`. So names, numbers, dates, institutions,
physicians, comments, private attributes, overlays and references to other objects stay behind whatever they are called,
as does what the Basic Application Level Confidentiality Profile (DICOM PS3.15, table E.1-1) removes, with one exception
that is on purpose: the frame of reference stays, so that the result lies on the source in a viewer. Who has both can
tell by it that they belong together. It is not a full de-identification either: nobody looks for text burned into the
pixels or for a face in a reconstruction, and the values of the attributes kept are not inspected.
"""

import copy
import uuid

from pydicom.dataset import Dataset

_IMAGING = """
    SpecificCharacterSet ImageType SOPClassUID Modality Manufacturer ManufacturerModelName
    BodyPartExamined ScanOptions SliceThickness KVP SpacingBetweenSlices DataCollectionDiameter ReconstructionDiameter
    DistanceSourceToDetector DistanceSourceToPatient GantryDetectorTilt TableHeight RotationDirection ExposureTime
    XRayTubeCurrent Exposure ExposureInuAs FilterType GeneratorPower FocalSpots ConvolutionKernel PatientPosition
    RevolutionTime SingleCollimationWidth TotalCollimationWidth TableSpeed TableFeedPerRotation SpiralPitchFactor
    ExposureModulationType CTDIvol AcquisitionNumber InstanceNumber SeriesNumber
    ImagePositionPatient ImageOrientationPatient FrameOfReferenceUID PositionReferenceIndicator SliceLocation
    SamplesPerPixel PhotometricInterpretation Rows Columns PixelSpacing BitsAllocated BitsStored HighBit
    PixelRepresentation PixelPaddingValue PixelPaddingRangeLimit WindowCenter WindowWidth VOILUTFunction
    RescaleIntercept RescaleSlope RescaleType BurnedInAnnotation
    LossyImageCompression LossyImageCompressionRatio LossyImageCompressionMethod
"""
_OUTDATED = """
    PixelData IconImageSequence SmallestImagePixelValue LargestImagePixelValue SmallestPixelValueInSeries
    LargestPixelValueInSeries SeriesDate SeriesTime ContentDate ContentTime InstanceCreationDate InstanceCreationTime
    InstanceCreatorUID DigitalSignaturesSequence MACParametersSequence DataSetTrailingPadding
"""
_EMPTY = "StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyID PatientBirthDate PatientSex"

IMAGING = frozenset(_IMAGING.split())
OUTDATED = frozenset(_OUTDATED.split())  # true of the source's pixels, series and file only
EMPTY = tuple(_EMPTY.split())  # without the patient
METHOD = "Only attributes of imaging and geometry kept; UIDs replaced"
NAMESPACE = uuid.UUID("0d5ac3f1-40a3-4cbe-9a0e-0a8d3c0f5b52")  # of the UIDs made here


def copied_header(source: Dataset, keep_patient: bool) -> Dataset:
    """What a derived image takes over of its source, still with the source's own UIDs for study, series and instance.

    Args:
        source: One slice, without or with pixels.
        keep_patient: Copy all that stays true of a derived image, private attributes included. Otherwise only
            `IMAGING`, with a made-up patient, one for each study, and a study UID made from the source's.
    Returns: A new dataset without pixels.
    Raises: ValueError: If the slice has no StudyInstanceUID.
    """
    study = str(source.get("StudyInstanceUID", ""))
    if not study:
        raise ValueError(f"{getattr(source, 'filename', 'slice')}: no StudyInstanceUID, expected one; export it again")
    header = Dataset()
    for tag in source.keys():  # noqa: SIM118 - iterating over the dataset itself would decode what is left out
        if tag.element == 0:  # group lengths
            continue
        keyword = source[tag].keyword if not tag.is_private else ""
        if keyword not in OUTDATED and (keep_patient or keyword in IMAGING):
            header[tag] = copy.copy(source[tag])  # its value may be replaced
    if keep_patient:
        return header
    header.StudyInstanceUID = made_uid("study", study)
    header.PatientID = f"synthetic-{made_uid('patient', study)[-8:]}"
    header.PatientName = "Synthetic^Lesion"
    for keyword in EMPTY:
        setattr(header, keyword, "")
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethod = METHOD
    header.LongitudinalTemporalInformationModified = "REMOVED"
    return header


def made_uid(*parts: str) -> str:
    """A UID that depends on the parts alone: a name-based UUID as an integer under 2.25 (DICOM PS3.5, B.2)."""
    return f"2.25.{uuid.uuid5(NAMESPACE, '|'.join(parts)).int}"
