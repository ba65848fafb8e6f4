"""Every field a config has, once, with its default and its meaning.

A recipe starts from `get_config()` here and changes what it needs. The command line can change
any field: `--config.optim.learning_rate=1e-3`. Config files import neither jax nor numpy, so that
`--help` stays quick.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Return the locked default config: a ViT on the embedded digits."""
    config = ConfigDict()
    config.seed = 0  # weights, order of examples, augmentation and dropout all follow from it
    config.dtype = "float32"  # of the computation: float32 | bfloat16 | float64 (for proofs)
    config.parallel = "jit"  # how steps go over devices: jit (a mesh) | pmap
    config.mesh = ConfigDict()  # changes no result; jit only
    config.mesh.data = 0  # devices over which batches are split; 0: all that fsdp leaves
    config.mesh.fsdp = 1  # devices that share parameters and optimizer state; also split batches

    # Further models, trained after config.model.name with all else alike and compared with it;
    # each takes those of the fields of config.model that it has.
    config.compare = ()
    config.model = ConfigDict()
    config.model.name = "vit"  # one of jax_models.list_models(); 'auto': that of init_from
    # Weights to start from: a folder of transformers or timm, a file, hf:ORG/NAME, timm/NAME.TAG or
    # a run folder. What is not given of the model and of the images follows from them.
    config.model.init_from = placeholder(str)
    config.model.init_revision = placeholder(str)  # on the hub; None: the newest, then its commit
    # Of the weights in init_from, which are refused if it is another; None: filled in.
    config.model.init_sha256 = placeholder(str)
    # How many training images, the first ones, parts of a model start from that follow from images
    # (the whitening of airbench); 0: from random numbers, as all else.
    config.model.init_images = 5000
    # Constructor keywords of the model. Left at None, those of init_from or else the model's own
    # defaults hold; img_size, in_channels and num_classes then come from the data.
    config.model.img_size = placeholder(int)  # side of the square input, pixels
    config.model.in_channels = placeholder(int)
    config.model.num_classes = placeholder(int)
    config.model.patch_size = placeholder(int)  # side of a patch, pixels; divides img_size
    config.model.embed_dim = placeholder(int)  # token width; a multiple of num_heads
    config.model.depth = placeholder(int)  # number of transformer blocks
    config.model.num_heads = placeholder(int)
    config.model.mlp_dim = placeholder(int)  # hidden width of the transformer's MLP
    config.model.dropout = placeholder(float)  # rate, from 0 up to but not including 1
    config.model.attention_dropout = placeholder(float)  # CCT: rate on the attention weights
    config.model.drop_path = placeholder(float)  # rate of whole branches left out, last block
    config.model.conv_layers = placeholder(int)  # CCT: convolutions that make the tokens
    config.model.conv_size = placeholder(int)  # CCT: side of their kernels, pixels
    config.model.positions = placeholder(str)  # CCT: learned | sine, which do not train
    # What the head of a standard ViT reads: token | avg | token_and_avg.
    config.model.pool = placeholder(str)
    config.model.class_token = placeholder(bool)  # standard ViTs: False goes with pool='avg'
    config.model.distilled = placeholder(bool)  # standard ViTs: a second token, with a head
    config.model.registers = placeholder(int)  # standard ViTs: tokens that nothing reads
    config.model.cover_prefix = placeholder(bool)  # whether tokens but patches have positions
    config.model.layer_scale = placeholder(float)  # what each branch's scale starts from
    config.model.swiglu = placeholder(bool)  # SwiGLU in place of GELU
    config.model.fc_norm = placeholder(bool)  # the last norm stands after the pool
    # Added to the variance in layer norms, and in airbench's batch norms.
    config.model.norm_eps = placeholder(float)
    config.model.head_norm_eps = placeholder(float)  # the same in that of a ConvNeXt's head
    config.model.widths = placeholder(tuple)  # CNNs: channels of each stage
    # Of each stage: number of blocks (ResNet, ConvNeXt) or of convolutions, 1 to 3 (airbench).
    config.model.depths = placeholder(tuple)
    config.model.stem = placeholder(str)  # ResNet's first layers: imagenet | cifar
    config.model.block = placeholder(str)  # ResNet: basic | bottleneck
    config.model.norm_momentum = placeholder(float)  # airbench: share of a batch in running means
    config.model.head_scale = placeholder(float)  # airbench: factor of the logits
    config.model.unit_head = placeholder(bool)  # airbench: the head starts with a deviation of 1
    config.model.head_dims = placeholder(tuple)  # hidden widths of an MLP head
    config.model.head_dropout = placeholder(float)  # rate in an MLP head
    # LoRA: the head trains, and beside frozen matrices adapters of this rank; None for none.
    config.model.lora_rank = placeholder(int)
    config.model.lora_alpha = placeholder(float)  # adapters count alpha / rank times; None: once
    # Regexes of the paths of the matrices; None: those of the attention (qkv and projection).
    config.model.lora_targets = placeholder(tuple)
    config.model.remat = False  # compute activations again in the backward pass: saves memory
    config.model.scan_layers = False  # ViTs: one block compiled for all, in a loop

    config.data = ConfigDict()
    # digits | cifar10 | cifar100 | mnist | food101 and others, see docs/training.md | folder:PATH |
    # parquet:PATH | hf:ORG/NAME[/CONFIG][@REVISION], of the Hugging Face hub
    config.data.name = "digits"
    config.data.data_dir = placeholder(
        str
    )  # tfds folder; None: $TFDS_DATA_DIR or ~/tensorflow_datasets
    config.data.download = True  # fetch and prepare missing data on first use
    config.data.memory_limit = 16.0  # GB of decoded images in a split; above it they stream
    # That decode what streams, in each process; None: one per CPU, at most 8.
    config.data.threads = placeholder(int)
    # Of files and records of photos only: side in pixels to resize and crop them to.
    config.data.image_size = placeholder(int)
    # Of that resizing: nearest | box | bilinear | hamming | bicubic | lanczos. None: bilinear, or
    # what the weights say.
    config.data.interpolation = placeholder(str)
    config.data.on_damaged = "stop"  # files that cannot be decoded: stop | skip
    # Millions of pixels decoded at once: larger JPEGs are halved, up to four times as many, other
    # files refused. None: Pillow's limit, 89.
    config.data.max_megapixels = placeholder(float)
    # Of parquet: and hf: only. None: the only column that can be.
    config.data.image_column = placeholder(str)
    config.data.label_column = placeholder(str)
    # Files added, removed or changed since the run began: refuse to go on | accept them.
    config.data.on_change = "refuse"
    # Splits in tfds syntax: 'train[:45000]', 'train[90%:]', 'train+test', and of folders also
    # 'train[90%:] by class'. '' for no validation. 'auto': the data's own, or a tenth of train.
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.test_split = "test"
    # Per channel, for pixels scaled to [0, 1]. None: measured on the training images.
    config.data.mean = placeholder(tuple)
    config.data.std = placeholder(tuple)

    # Applied on the device, in this order, in training, what is erased and mixed after pixels are
    # normalised; in evaluation resize, then a central crop.
    config.augment = ConfigDict()
    config.augment.crop_size = 0  # side in pixels of what the model takes; 0: of all there is
    # Least and largest share of the image's area, such as 0.08,1.0: a random box of it is brought
    # to the side that the model takes. It stands in for resize in training. () for none.
    config.augment.random_resized_crop = ()
    config.augment.aspect_ratio = (3 / 4, 4 / 3)  # of such a box, width to height: least, largest
    config.augment.resize = 0  # side in pixels to resize to, training and evaluation
    # Of these two, antialiased: bilinear | bicubic. None: bilinear, or what the weights say.
    config.augment.interpolation = placeholder(str)
    config.augment.rotate_degrees = 0.0  # uniform in [-x, x], nearest neighbour, zero fill
    config.augment.crop_padding = 0  # padding on each side before a random crop, pixels
    config.augment.crop_mode = "zero"  # what is padded: zero | reflect, the image mirrored
    config.augment.crop_probability = 1.0  # share of images that are cropped (shifted) at all
    config.augment.flip = False  # horizontal flip of half the images
    # random: anew each time | alternating: an image is mirrored in every second epoch.
    config.augment.flip_mode = "random"
    # RandAugment as timm (rand-m9-mstd0.5-inc1) or torchvision (ra-n2-m9) has it, TrivialAugment
    # (ta_wide), AutoAugment (cifar10 | imagenet | svhn); '' for none. timm's interpolates as
    # config.augment.interpolation says; None: bilinear or bicubic, by chance.
    config.augment.auto_augment = ""
    # Largest changes of brightness, contrast, saturation (1: from none to double) and hue (up to
    # 0.5, half a turn), in random order, such as 0.4,0.4,0.4,0.1. () for none.
    config.augment.color_jitter = ()
    config.augment.erase_probability = 0.0  # that a box of an image is erased
    config.augment.erase_area = (0.02, 1 / 3)  # of that box, shares of the image: least, largest
    config.augment.erase_aspect = (0.3, 10 / 3)  # of it, height to width: least, largest
    config.augment.erase_mode = "const"  # by: const, the mean | rand, a colour | pixel, noise
    config.augment.cutout = 0  # side in pixels of a square that is set to the mean; 0: none
    # Alphas of mixup and CutMix, of which an image and its neighbour in the batch are mixed, and
    # so are their targets; 0.0: none.
    config.augment.mixup = 0.0
    config.augment.cutmix = 0.0
    config.augment.mix_probability = 1.0  # that either is done at all
    config.augment.mix_switch = 0.5  # where both are on: probability of CutMix
    config.augment.mix_mode = "batch"  # what draws for itself: batch | pair | elem, each image
    config.augment.mix_off_epoch = 0  # from this epoch on, counted from 0, none is mixed; 0: never
    # Times that a batch has each of its images, augmented differently; an epoch then shows that
    # part of the images.
    config.augment.repeats = 1

    config.train = ConfigDict()
    config.train.epochs = 20  # passes over the training images
    # Early stopping: evaluations without a better validation top-1 after which a run ends; 0: none.
    config.train.patience = 0
    config.train.batch_size = 128  # over all devices; an incomplete last batch is dropped
    config.train.accumulate_steps = 1  # parts each batch is worked through in: saves memory
    # EMA of the weights and batch statistics: the share that it keeps of itself a step, such as
    # 0.9998. It is what is evaluated, reported and exported. 0: none.
    config.train.ema_decay = 0.0
    # At first less is kept: none | tf (at most (1 + t) / (10 + t) at step t) | timm (ModelEmaV3)
    config.train.ema_warmup = "none"
    # Of training: cross_entropy | binary_cross_entropy, by which each class is a question of its
    # own, as timm has it. Evaluations tell cross-entropy.
    config.train.loss = "cross_entropy"
    config.train.bce_threshold = placeholder(float)  # shares above it count as 1, others as 0
    config.train.bce_sum = False  # the sum over the classes in place of their mean
    config.train.label_smoothing = 0.0  # share of the target spread over all classes
    # Of each class in the training loss, as in torch.nn.CrossEntropyLoss (binary: in
    # BCEWithLogitsLoss): ("balanced",) for scikit-learn's n / (K · n_k), or a number for each;
    # None: all count alike.
    config.train.class_weights = placeholder(tuple)
    config.train.freeze = ()  # regexes of parameter paths that stay as they are: (r'^(?!head)',)
    config.train.probe_epochs = 0  # in which the head trains alone, before all that is not frozen
    config.train.on_nonfinite = (
        "stop"  # a loss or gradient that is not finite: stop | skip the step
    )
    config.train.steps_per_call = 0  # steps in one compiled call; 0: 1 on CPU, 32 elsewhere

    config.optim = ConfigDict()
    config.optim.name = "adamw"  # adamw | adam | sgd | lion | lamb | muon | schedule_free_adamw
    config.optim.learning_rate = 3e-4  # the peak, where the schedule is not constant
    # adam and sgd: added to the gradient (L2); lamb: to Adam's step, before the trust ratio;
    # others: decoupled, times the rate.
    config.optim.weight_decay = 0.0
    config.optim.decay_exclude = ()  # regexes of parameter paths without decay: (r'bias$', 'norm')
    config.optim.beta1 = 0.9
    config.optim.beta2 = 0.999  # lion: 0.99 is usual
    config.optim.eps = 1e-8  # lamb: 1e-6 is usual
    config.optim.momentum = 0.0  # sgd and muon
    config.optim.nesterov = False  # sgd and muon
    config.optim.always_adapt = False  # lamb: the trust ratio also of what does not decay
    # muon trains those arrays of two dimensions or more that one of these regexes finds by their
    # paths; adamw, with the fields above, the others. For rates of their own see groups.
    config.optim.muon_match = (r"kernel$",)
    config.optim.muon_steps = 5  # iterations that make a matrix orthogonal
    # Of its steps: shape (√max(1, outputs / inputs)) | rms (0.2·√max(inputs, outputs)) | none
    config.optim.muon_scale = "shape"
    config.optim.muon_normalize = False  # muon: each step begins at weights of the norm √outputs
    # Lookahead: every so many steps training goes on from an average that takes a share alpha of
    # the new weights, and that is what is evaluated; 0: none. With a power p the average keeps
    # (1 - alpha)·(share of the run that is over)^p of itself.
    config.optim.lookahead_steps = 0
    config.optim.lookahead_alpha = 0.5
    config.optim.lookahead_power = 0.0
    # The rate of each layer as a share of that of the next one, towards the head; 1.0: all equal.
    config.optim.layer_decay = 1.0
    # Pairs (regex of parameter paths, factor of their rate): (('bias$', 2.0), (r'^head', 10.0)).
    config.optim.lr_scale = ()
    # Groups with fields of their own: pairs (regex of parameter paths, fields); the first counts.
    # (('^head', {'learning_rate': 0.01, 'name': 'sgd', 'schedule.name': 'linear'}),)
    config.optim.groups = ()
    config.optim.clip_norm = 0.0  # largest global norm of the gradient; 0: no clipping

    config.schedule = ConfigDict()
    config.schedule.name = "cosine"  # cosine | linear | trapezoid | onecycle | constant
    config.schedule.unit = "step"  # the rate changes every 'step' or every 'epoch'
    config.schedule.length_epochs = 0.0  # after which the rate stays at its end; 0: all
    config.schedule.warmup_epochs = 0.0  # linear up to the peak; all but onecycle
    config.schedule.warmup_factor = 0.0  # the first rate of that as a share of the peak
    config.schedule.cooldown_epochs = 0.0  # trapezoid: linear down at the end
    config.schedule.final_factor = 0.0  # last rate as a share of the peak; not onecycle, constant
    config.schedule.stop_epochs = 0.0  # after which the rate is 0; 0: never
    # onecycle, as torch.optim.lr_scheduler.OneCycleLR (cosine annealing, two phases)
    config.schedule.pct_start = 0.3
    config.schedule.div_factor = 25.0
    config.schedule.final_div_factor = 1e4
    config.schedule.cycle_momentum = True  # beta1 (or sgd momentum) runs against the rate
    config.schedule.base_momentum = 0.85
    config.schedule.max_momentum = 0.95

    config.eval = ConfigDict()
    config.eval.batch_size = 500  # at most: small splits in one, all in even ones
    config.eval.every_epochs = 1  # validation and checkpoint; the last epoch always

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 0  # also inside an epoch; 0: at evaluations only
    config.checkpoint.every_minutes = 0.0  # at a log point after that time; 0: not by time
    config.checkpoint.report = "best"  # weights of the final figures: 'best' by validation | 'last'

    config.log = ConfigDict()  # changes nothing in the results
    config.log.every_steps = 50  # a row of metrics.csv and, without a terminal, a printed line
    config.log.tensorboard = False  # also TensorBoard's event files, in the run folder
    config.log.wandb = ""  # project of Weights & Biases to log to as well; '' for none
    config.log.progress = True  # progress bar, where the output is a terminal
    return config.lock()
