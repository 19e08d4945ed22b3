from resnet_tf.api import Fitted as Fitted
from resnet_tf.api import evaluate as evaluate
from resnet_tf.api import export as export
from resnet_tf.api import fit as fit
from resnet_tf.api import predict as predict
from resnet_tf.api import preprocessing_of as preprocessing_of
from resnet_tf.errors import InputError as InputError
from resnet_tf.models import cost as cost
from resnet_tf.models import create_backbone as create_backbone
from resnet_tf.models import create_model as create_model
from resnet_tf.models import list_models as list_models
from resnet_tf.models.imagenet import decode_predictions as decode_predictions

__version__: str
