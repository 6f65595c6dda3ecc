"""The articles' MLP in Keras, their own tool: compile and fit."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tensorflow import keras

from benchmarks.peers import common


def main() -> None:
    given = common.settings()
    tf.config.threading.set_intra_op_parallelism_threads(given.threads)
    tf.config.threading.set_inter_op_parallelism_threads(given.threads)
    keras.utils.set_random_seed(0)
    found = common.arrays(given.arrays)

    def images(pixels: np.ndarray) -> np.ndarray:
        return ((pixels[:, 0] / 255 - found.mean) / found.std).astype("float32")

    x, val_x = images(found.train_images), images(found.val_images)
    clock = common.Clock()

    class EpochClock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            clock.epoch_begins()

        def on_epoch_end(self, epoch, logs=None):
            clock.epoch_ends()

    model = keras.Sequential(
        [
            keras.layers.Input(x.shape[1:]),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(int(found.classes), activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(given.lr),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = model.fit(
        x,
        found.train_labels,
        batch_size=given.batch_size,
        epochs=given.measured_epochs,
        validation_data=(val_x, found.val_labels),
        verbose=0,
        callbacks=[EpochClock()],
    ).history
    clock.report(
        history["val_accuracy"][-1],
        history["loss"][-1],
        versions={"tensorflow": tf.__version__, "keras": keras.__version__},
    )


if __name__ == "__main__":
    main()
