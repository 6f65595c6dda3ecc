"""What `--help` says of commands beside their options: examples to paste, and what they leave."""

DESCRIPTION = """\
Measure what transfer learning buys: pretrain, fine-tune under a freeze schedule, compare with no transfer."""
EXAMPLES = """\
examples:
  dvc repro                                                       the whole study that params.yaml selects
  frostline plan freeze=gradual                                   what would train when, at which rates
  frostline finetune dataset=image_folder dataset.root=DIR backbone=efficientnet_lite0 weights=imagenet
                     freeze=linear_probe out=DIR                  one run on your own pictures
  frostline finetune -m freeze=linear_probe,full seed=0,1,2       every combination
  frostline finetune --cfg job                                    what would run, as YAML
  frostline probe optimizer.lr=1e-3,1e-2 seed=0,1,2               how good a backbone's frozen features are
  frostline compare --study NAME                                  what differs, and how they did
  frostline ui                                                    compare runs in the browser
  frostline register RUN --name digits --alias champion           keep the winner in MLflow's registry
  frostline predict models:/digits@champion FOLDER                and let it say what it sees

KEY=VALUE is a Hydra override: a choice of option (freeze=gradual) or a value (trainer.epochs=5).
The options are the files of conf/, each with what to expect of it at its top.

exit status: 0 done, 2 a mistake in a config, a file or the command, 3 training broke down, 4 below the gate,
130 interrupted (SIGTERM: 143, SIGHUP: 129)."""
RUN_FILES = """\
leaves in out: metrics.json, weights.safetensors (the best epoch's), config.yaml, history.csv, training.json,
predictions.csv; out is runs/COMMAND/NAME unless given."""

CACHE_EXAMPLES = """\
examples:
  frostline cache                       what is kept, the most recently used first
  frostline cache prune --to 5GiB       remove the least recently used features until 5 GiB are left
  frostline cache clear                 remove everything, pixels too

What is removed is computed again when a run needs it; runs that use it now go on. The environment variable
FROSTLINE_CACHE_GIB is the limit for features; unset, it is 20, or a quarter of the disk's room if less."""
COMPARE_EXAMPLES = """\
examples:
  frostline compare                                             the newest study or sweep
  frostline compare --study mnist_to_digits --out arms.html     a page with a picture
  frostline compare resnet10t·full·digits resnet10t·gradual·digits
                                                                all seeds of two settings
  frostline compare runs/finetune/a runs/finetune/b --open      in the browser too
  frostline compare --filter "tags.freeze = 'full'" --metric test/f1_macro --metric test/loss

The best on the first metric comes first. The others' differences from it in test accuracy are paired by
seed; p is a paired t-test's, corrected for all rows together (Holm)."""
SYNC_NOTES = """\
Runs write what they record to .frostline/journal first. A command that ends waits 2 seconds for a server
that is unreachable or slow (FROSTLINE_WAIT=SECONDS), then the rest stays in the journal. `frostline sync`
delivers it, and so does the next command that records or compares. Nothing is recorded twice.

Records are delivered to the store that their run had: for one of another MLFLOW_TRACKING_URI, set it.
exit status: 2 if something is still pending for this store."""
PROBE_EXAMPLES = """\
examples:
  frostline probe dataset=digits backbone=efficientnet_lite0 weights=imagenet
                                                                how good ImageNet's features are for digits
  frostline probe dataset=image_folder dataset.root=DIR backbone=efficientnet_lite0 weights=imagenet
                  optimizer.lr=1e-4,1e-3,1e-2 loss.label_smoothing=0,0.1 seed=0,1,2
                                                                18 heads, trained at once
  frostline probe weights=file weights.path=runs/NAME/weights.safetensors weights.head=reset
                                                                what a run of yours has learned

The backbone runs once over the images; its features are kept for later probes and fine-tunings
(frostline cache). Lists of optimizer.lr, optimizer.weight_decay, loss.label_smoothing and seed make the
heads; validation chooses among them, and the test split is read for the best setting alone.

leaves in out: probe.json, heads.csv (a row a head), and the best head as a run of its own, as
`frostline finetune freeze=linear_probe` leaves it; out is runs/probe/NAME unless given."""
WHICH = """\
RUN is a run's folder (runs/finetune/NAME), models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID/model, or the
id or name of a run in MLflow, whose weights are then looked for in this project by their content."""
REGISTER_EXAMPLES = f"""\
examples:
  frostline register runs/finetune/NAME --name digits --alias champion
                                        the best so far; what was champion before stays a version
  frostline register 5f0c… --name digits
                                        by the run's id, as `frostline ui` shows it

{WHICH}

The model is a program of torch.export's, without a pickle: (N, channels, size, size) uint8 images in,
(N, classes) probabilities out. It is tried before it is stored. Plain MLflow loads it with
mlflow.pytorch.load_model("models:/digits@champion"); frostline need not be installed there. The same weights
become no second version."""
PREDICT_EXAMPLES = f"""\
examples:
  frostline predict models:/digits@champion FOLDER --out predictions.csv
  frostline predict runs/finetune/NAME one.jpg two.png --top-k 3 --format json

{WHICH}

Pictures are read, turned, resized and cropped as in training, and the network computes as it was measured,
so a test image gets what the run's predictions.csv says. In a folder, all image files are meant, those of its
folders too. A row for each picture: image, prediction, confidence, those of the next likeliest classes, and
error: why a picture could not be used. The rest goes on, and the exit status is then 2."""
EXPORT_EXAMPLES = f"""\
examples:
  frostline export runs/finetune/NAME --format onnx --out model.onnx
  frostline export models:/digits@champion --format torchscript --out model.pt

{WHICH}

onnx and torchscript: (N, channels, size, size) uint8 images in, any number, (N, classes) probabilities out;
size, resizing and class names are in the file's metadata, under "frostline". onnx needs frostline[onnx].
safetensors: the weights alone, under timm's names. What was written is read again, run beside the network on
test images, and kept only if it gives the same."""
