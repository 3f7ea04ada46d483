"""One run from raw text to an evaluated model: check, tokenizer, token store, training, weights for use, report.

Every part leaves its result in the run folder and finds it there again, so a run that was killed anywhere goes on.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from safetensors.torch import save_file

from pytorch_dl.building import build_model, choose_device
from pytorch_dl.changes import changed_settings, flat_settings, look_at_changes, warn_of_other_bits
from pytorch_dl.config import Config
from pytorch_dl.config.model_config import TrainingConfig
from pytorch_dl.dataset.check import CheckReport, check
from pytorch_dl.dataset.efficient_dataloader import (
    DataModule,
    require_training_text,
    source,
    texts_of,
)
from pytorch_dl.dataset.loader import BatchLoader
from pytorch_dl.dataset.tokenizer import TokenizerPair, refuse_misspelt
from pytorch_dl.errors import DataError, Interrupted, UserError
from pytorch_dl.evaluating import evaluate_run
from pytorch_dl.files import RunLock, new_folder, remove_leftovers, write_json
from pytorch_dl.plain_files import refuse_strange, strange_entries
from pytorch_dl.prepare import new_tokenizers, prepare, require_same_texts, text_states
from pytorch_dl.process import keep_freed_memory
from pytorch_dl.reporting.page import write_page
from pytorch_dl.training import checkpoint as ckpt
from pytorch_dl.training.largest_batch import resolve
from pytorch_dl.training.peers import ALONE, Peers, joined, was_restarted
from pytorch_dl.training.profiling import profiled
from pytorch_dl.training.progress import Progress
from pytorch_dl.training.run_folder import RunFolder
from pytorch_dl.training.sharding import gathered
from pytorch_dl.training.trackers import require_packages
from pytorch_dl.training.train_state import TrainState
from pytorch_dl.training.trainer import create_trainer
from pytorch_dl.validating import decoder
from pytorch_dl.weights_from import OtherModel, are_due, keep, take_kept

Say = Callable[[str], None]


def check_texts(config: Config, say: Say) -> tuple[CheckReport, TokenizerPair | None]:
    """Look at the texts before anything is trained on them; where they are readable, at their tokens as well.

    A text that validation pairs are held out of is looked at as a whole: no side of a split sees its faults.
    """
    data, seed = config.data, config.system.seed
    refuse_misspelt(data.tokenizer_name)  # before a long text is read
    whole = texts_of(data.model_copy(update={"val_split": 0}), seed=seed)
    test = [source(data, data.test_data_path, data.test_tgt_path)] if data.test_data_path else []
    report = check(whole.train, whole.val, test)
    if report.errors:
        return report, None
    texts = texts_of(data, seed=seed)
    tokenizers = new_tokenizers(config, texts, say)
    report = check(whole.train, whole.val, test, tokenizers=tokenizers, max_length=data.max_length)
    if data.val_split:
        val = check(texts.val, tokenizers=tokenizers, max_length=data.max_length).train
        report = replace(report, val=val, held_out=val.pairs)
    return report, tokenizers


def refuse_errors(report: CheckReport) -> None:
    """Raise the first error that a check found."""
    if report.errors:
        what, _, fix = report.errors[0].partition(" Fix: ")
        more = f" (and {len(report.errors) - 1} more)" if len(report.errors) > 1 else ""
        raise DataError(f"{what.rstrip('.')}{more}", fix=fix or "mend the text; `pytorch-dl check` shows all findings")


def start(
    config: Config, out: Path, *, beam_size: int | None, weights_from: str | None = None, profile: bool = False
) -> None:
    """Begin a run and do all of it: as `begin` and `finish`, in all processes that torchrun started."""
    with joined(choose_device(config.system.device)) as peers:
        peers.refuse_difference({**flat_settings(config), "--weights-from": weights_from}, what="the configuration")
        require_same_texts(peers, config)
        folder, progress = RunFolder(Path(peers.tell(str(out)))), _progress(peers)
        goes_on = was_restarted(peers) and folder.config.exists()
        if peers.is_first and not goes_on:
            begin(config, folder.path, progress=progress, beam_size=beam_size, weights_from=weights_from)
        peers.wait()
        with _resumable(folder):
            train(folder, progress=progress, peers=peers, profile=profile)
    if peers.is_first:
        _evaluate_if_asked(folder, progress=progress)


def go_on(folder: RunFolder, *, accept_changes: bool) -> None:
    """Do what is left of a begun run: as `finish`, in all processes that torchrun started."""
    config = folder.read_config()
    with joined(choose_device(config.system.device)) as peers, _resumable(folder):
        progress = _progress(peers)
        require_same_texts(peers, config)
        train(folder, progress=progress, peers=peers, accept_changes=accept_changes)
    if peers.is_first:
        _evaluate_if_asked(folder, progress=progress)


def _progress(peers: Peers) -> Progress:
    return Progress() if peers.is_first else Progress(Console(quiet=True))


def begin(
    config: Config, out: Path, *, progress: Progress, beam_size: int | None, weights_from: str | None = None
) -> RunFolder:
    """Begin a run in the folder `out`.

    With a `beam_size` its texts are checked now and it is evaluated at its end; None does neither. It takes its first
    weights from another model, as far as they fit, where `weights_from` names a run, an export or hf://ORG/NAME.
    """
    folder = RunFolder(out)
    folder.refuse_another()
    require_training_text(config.data)
    refuse_misspelt(config.data.tokenizer_name)
    require_packages(config.logging)
    other = OtherModel.read(weights_from) if weights_from is not None else None
    if other:
        other.require_some_fit(config)
    tokenizers = _check_before(config, progress.say) if beam_size else None
    folder.create(config, beam_size=beam_size, put_weights=partial(keep, folder, other) if other else None)
    if tokenizers:
        tokenizers.save(folder.tokenizer)
    return folder


def finish(folder: RunFolder, *, progress: Progress) -> None:
    """Do what is left of a begun run: training, and the evaluation where it was asked for."""
    with _resumable(folder):
        train(folder, progress=progress)
    _evaluate_if_asked(folder, progress=progress)


def _evaluate_if_asked(folder: RunFolder, *, progress: Progress) -> None:
    with _resumable(folder):
        beam_size = folder.read_beam_size()
        if beam_size and not folder.report.exists():
            try:
                evaluate_run(folder, beam_size=beam_size, progress=progress)
            except DataError as error:  # texts were checked at the beginning: they are gone
                progress.say(f"not evaluated: {error}")
        if beam_size and not folder.page.exists():
            _write_page(folder, progress)
    progress.say(f"translate with: pytorch-dl translate {folder.path}")


def _write_page(folder: RunFolder, progress: Progress) -> None:
    """Show all of the run on a page, without which it is whole as well."""
    try:
        write_page([folder.path], folder.page)
    except (UserError, OSError) as error:
        progress.say(f"no page was written: {error}")
    else:
        progress.say(f"all of it on a page: {folder.page}")


def train(
    folder: RunFolder,
    *,
    progress: Progress,
    peers: Peers = ALONE,
    accept_changes: bool = False,
    profile: bool = False,
) -> None:
    """Train a begun run to its end, from wherever it is; a finished one is left as it is.

    Where its configuration was changed after the first checkpoint, that must be accepted. With `profile` the first
    process tells where the time and memory of some steps went.
    """
    config = folder.read_config()
    folder.read_beam_size()  # what is wrong with it shows now
    if peers.tell(folder.is_finished if peers.is_first else None):
        progress.say(f"{folder.path} is finished: nothing to do")
        return
    if peers.is_first:
        require_packages(config.logging)
    changes = peers.tell(changed_settings(folder, config) if peers.is_first else None)
    look_at_changes(folder, config, changes, accepted=accept_changes, say=progress.say)
    warn_of_other_bits(folder, config, say=progress.say)
    with _held(folder, config) if peers.is_first else contextlib.nullcontext():
        begun_with = text_states(config)
        if peers.is_first:
            remove_leftovers(folder.path)
        data = peers.in_turn(lambda: prepare(folder, config, progress.say))
        keep_freed_memory()  # not before: what preparation frees goes back to the system
        config, batches = _divided_into_batches(folder, config, data, peers=peers, say=progress.say)
        divided = config.system.shard and peers.size > 1
        model = build_model(_on_host(config) if divided else config, data.tokenizers)
        if peers.tell(are_due(folder) if peers.is_first else None):
            take_kept(folder, model, data.tokenizers, config=config, is_first=peers.is_first, say=progress.say)
        place = peers.device if divided else next(model.parameters()).device
        progress.say(f"model: {model.num_parameters():,} parameters on {place}")
        val = data.val_dataloader()
        if val is None:
            progress.say("no validation text: the last weights are kept; --split N holds N pairs out to validate on")
        pictures = config.logging.tensorboard or config.logging.wandb
        decode = decoder(data, config.training, pictures=pictures) if config.training.eval_decode else None
        trainer = create_trainer(
            model=model,
            train_dataloader=batches,
            val_dataloader=val,
            config=config,
            run_dir=folder.path,
            decode=decode,
            progress=progress,
            peers=peers,
        )
        trainer.checkpoints.warn_if_scarce(progress.say)
        if trainer.resume():
            progress.say(f"resuming at step {trainer.state.step:,}")
        if peers.is_first:
            folder.note_begun(config)
        with (
            profiled(trainer, folder.profile, progress.say) if profile and peers.is_first else contextlib.nullcontext()
        ):
            state = trainer.train()
        weights = gathered(ckpt.model_weights(model))
        if not peers.is_first:
            return
        for path in _changed(begun_with, text_states(config)):
            progress.say(f"warning: {path} has changed meanwhile; the run was trained on what it held before")
        with new_folder(folder.model) as temporary:
            save_file(weights, temporary / ckpt.MODEL)
            origin = {"best_step": state.best_step, "last_step": state.step, "averaged": trainer.best.are_average}
            write_json(temporary / "origin.json", origin)
        progress.say(f"kept for use: {_kept(state, config.training, has_average=trainer.best.are_average)}")


@contextlib.contextmanager
def _held(folder: RunFolder, config: Config) -> Iterator[None]:
    """Keep other processes out of the folder, and of the one that the records go to, where it is another."""
    records = Path(config.logging.log_dir or folder.path)
    with RunLock(folder.path), contextlib.ExitStack() as stack:
        if records.resolve() != folder.path.resolve():
            refuse_strange(strange_entries(records, deep=False))
            stack.enter_context(RunLock(records, setting="logging.log_dir"))
        yield


def _divided_into_batches(
    folder: RunFolder, config: Config, data: DataModule, *, peers: Peers, say: Say
) -> tuple[Config, BatchLoader]:
    """The training batches; where their size is to be found, also the configuration with it, which the folder keeps."""
    loader = data.train_dataloader()
    if config.data.max_tokens_per_batch != "auto":
        return config, loader
    found, line = resolve(
        config,
        loader,
        lambda: build_model(config, data.tokenizers),
        device=choose_device(config.system.device),
        peers=peers,
    )
    data.data = found.data
    loader.fill(data.max_tokens)
    if peers.is_first:
        folder.settle(found)
    say(line)
    return found, loader


def _changed(before: dict[Path, tuple[int, int]], now: dict[Path, tuple[int, int]]) -> list[Path]:
    return [path for path, state in before.items() if now.get(path) != state]


def _on_host(config: Config) -> Config:
    """To make a model that no device has room for as a whole; its parts move to theirs."""
    return config.model_copy(update={"system": config.system.model_copy(update={"device": "cpu"})})


def _kept(state: TrainState, settings: TrainingConfig, *, has_average: bool) -> str:
    if has_average:
        return f"the average of the last checkpoints, of {state.step:,} steps"
    metric = settings.early_stopping_metric
    why = "" if state.best_value is None else f", the best by {metric} ({state.best_value:.4g})"
    return f"the weights of step {state.best_step:,} of {state.step:,}{why}"


@contextlib.contextmanager
def _resumable(folder: RunFolder) -> Iterator[None]:
    """Tell who interrupts a run that it can go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted", where=str(folder.path), fix=f"go on with `pytorch-dl resume {folder.path}`"
        ) from None


def _check_before(config: Config, say: Say) -> TokenizerPair | None:
    report, tokenizers = check_texts(config, say)
    for line in report.lines():
        say(line)
    refuse_errors(report)
    return tokenizers
