"""The configurations of trainings and commands: frozen dataclasses whose fields are command-line flags."""

from resnet_tf.config.benchmark import BenchmarkConfig, BenchmarkSection
from resnet_tf.config.commands import (
    AnalyzeConfig,
    CompareConfig,
    ConvertConfig,
    DataServerConfig,
    ExportConfig,
    FeaturesConfig,
    GallerySection,
    ModelsConfig,
    PictureSection,
    PredictConfig,
    PrepareConfig,
    ShowConfig,
    SweepConfig,
)
from resnet_tf.config.detection import (
    DETECTION_DATASETS,
    DetectConfig,
    DetectionDataConfig,
    DetectionViewConfig,
    DetectorConfig,
)
from resnet_tf.config.fields import (
    GIVEN,
    SYNONYMS,
    check_kind,
    check_used,
    define_flags,
    fields_of,
    from_settings,
    is_used,
    listed,
    nearest,
    read_flags,
    section_types,
    setting,
    settings_of,
    usage,
)
from resnet_tf.config.run import TrainConfig, check_data, check_schedule, check_ten_crop, check_views, evaluation_size
from resnet_tf.config.scoring import EvaluateConfig, EvaluationSection, ImportedSection, RelabelConfig
from resnet_tf.config.sections import (
    AUTO,
    DATASETS,
    PRECISIONS,
    SMALL_DATASETS,
    ChoiceConfig,
    DataConfig,
    DeviceConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RecordConfig,
    ScheduleConfig,
    ViewConfig,
)
from resnet_tf.config.segmentation import (
    SEGMENTATION_DATASETS,
    HeadConfig,
    SegmentationDataConfig,
    SegmentationViewConfig,
    SegmentConfig,
)
from resnet_tf.config.serve import ServeConfig
from resnet_tf.config.tasks import CLASSIFICATION, TASKS, Metric, TaskRow
from resnet_tf.config.transfer import ScoreConfig, TransferExportConfig
