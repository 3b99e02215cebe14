"""The check stage, run as the daemon runs it, and the same check of loose files."""

import gzip
import hashlib
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from appliance.checking import Checked, Files, check_files
from appliance.errors import Reason
from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.recipe import Recipe
from appliance.recipe_yaml import parse_recipe
from appliance.settings import Settings
from appliance.sources import Source
from tests.jobs import jsonl, make_job, run_stage

RECIPE = "base_model: demo\nmax_steps: 60\n"
ROWS = [{"question": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(40)]


def checked(folder: Path, files: dict, *, library: str | None = None, **environment: str) -> tuple[int, JobDir]:
    """Make a job of these files and run its check stage."""
    job = make_job(folder, files, library_recipe="mine" if library else None)
    if library:
        job.library_recipe.write_text(library)
    return run_stage(Stage.CHECK, job, **environment), job


def written(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_good_drop_leaves_rows_recipe_and_result(tmp_path):
    code, job = checked(tmp_path, {"support.jsonl": jsonl(ROWS), "support.yaml": RECIPE})
    assert code == 0
    folder = job.path / "check"
    assert written(folder / "rows.jsonl")[1] == {
        "messages": [{"role": "user", "content": "What is 1 plus 1?"}, {"role": "assistant", "content": "2"}],
    }
    assert not (folder / "eval.jsonl").exists()
    recipe = Recipe(base_model="demo", max_steps=60)
    assert Recipe.model_validate_json((folder / "recipe.json").read_text()) == recipe
    assert parse_recipe((folder / "recipe.yaml").read_bytes(), name="recipe.yaml") == recipe
    assert job.result(Stage.CHECK) == {
        "format": "prompt and completion",
        "type": "conversational",
        "dataset": "support.jsonl",
        "dataset_sha256": hashlib.sha256(jsonl(ROWS).encode()).hexdigest(),
        "rows": 40,
        "eval_rows": None,
        "warnings": [],
        "notes": ["question and answer are read as prompt and completion"],
        "base_model": "demo",
        "method": "sft",
        "priority": "normal",
    }


def test_the_number_of_rows_is_reported_as_they_are_done(tmp_path):
    _, job = checked(tmp_path, {"support.jsonl": jsonl(ROWS), "support.yaml": RECIPE})
    events = written(job.path / "check" / "progress.jsonl")
    assert events[-1].items() >= {"event": "progress", "done": 40, "total": None, "unit": "rows"}.items()


def test_held_out_rows_come_in_a_file_of_their_own(tmp_path):
    files = {"support.jsonl": jsonl(ROWS), "support.eval.jsonl": jsonl(ROWS[:5]), "support.yaml": RECIPE}
    code, job = checked(tmp_path, files)
    assert code == 0
    assert job.result(Stage.CHECK)["eval_rows"] == 5
    assert len(written(job.path / "check" / "eval.jsonl")) == 5


def test_without_a_recipe_of_its_own_a_drop_uses_the_library_recipe(tmp_path):
    code, job = checked(tmp_path, {"support.jsonl": jsonl(ROWS)}, library=RECIPE)
    assert code == 0
    assert job.result(Stage.CHECK)["base_model"] == "demo"


def test_a_recipe_inherits_from_the_library_recipe_of_its_folder(tmp_path):
    files = {"support.jsonl": jsonl(ROWS), "support.yaml": "lora:\n  r: 8\npriority: high\n"}
    code, job = checked(tmp_path, files, library=RECIPE + "lora:\n  alpha: 32\n")
    assert code == 0
    recipe = Recipe.model_validate_json((job.path / "check" / "recipe.json").read_text())
    assert recipe == Recipe(base_model="demo", max_steps=60, lora={"r": 8, "alpha": 32}, priority="high")
    assert job.result(Stage.CHECK)["priority"] == "high"


def test_the_mistakes_of_recipe_and_rows_come_back_together(tmp_path):
    recipe = "base_model: demo\nlearning_rate: -1\nlora:\n  rank: 8\nepochs: 3\n"
    rows = jsonl(ROWS).splitlines(keepends=True)
    rows[3] = "{'question': 'a'}\n"
    rows[10] = json.dumps({"question": "a", "answer": None}) + "\n"
    rows[20] = json.dumps({"question": "a"}) + "\n"
    code, job = checked(tmp_path, {"support.jsonl": "".join(rows), "support.yaml": recipe})
    assert code == 2
    problems = job.problems(Stage.CHECK)
    assert [str(problem) for problem in problems] == [
        "support.yaml:2: learning_rate is -1; it must be a number from 0 to 1, such as 2e-4",
        "support.yaml:4: lora.rank is not a recipe key; did you mean lora.r?",
        "support.yaml:5: epochs is not a recipe key; did you mean num_train_epochs?",
        "support.jsonl:4: a single quotation mark at column 2; JSON wants double ones",
        "support.jsonl:11: answer is null; write a text",
        "support.jsonl:21: answer is missing; the row has the column question",
    ]
    assert all(problem.expected or problem.found for problem in problems)
    assert not (job.path / "check" / "rows.jsonl").exists()
    assert job.result(Stage.CHECK) is None
    assert (job.path / "dropped" / "support.jsonl").read_text() == "".join(rows)


def test_nothing_of_the_rows_stands_in_the_log(tmp_path):
    rows = [*ROWS, {"question": "the canary sings", "answer": None}, {"canary": "the canary sings"}]
    code, job = checked(tmp_path, {"support.jsonl": jsonl(rows), "support.yaml": RECIPE})
    assert code == 2
    assert "canary" not in (job.path / "check" / "stage.log").read_text()


def test_a_file_that_is_gone_is_a_problem_and_not_a_crash(tmp_path):
    job = make_job(tmp_path, {"support.jsonl": jsonl(ROWS), "support.yaml": RECIPE})
    (job.dropped / "support.jsonl").unlink()
    (job.dropped / "support.yaml").unlink()
    (job.dropped / "support.yaml").mkdir()
    assert run_stage(Stage.CHECK, job) == 2
    assert [(problem.file, problem.code) for problem in job.problems(Stage.CHECK)] == [
        ("support.yaml", "unreadable_file"),
        ("support.jsonl", "unreadable_file"),
    ]


def test_a_pipe_is_never_waited_for(tmp_path):
    job = make_job(tmp_path, {"support.jsonl": jsonl(ROWS), "support.yaml": RECIPE})
    (job.dropped / "support.jsonl").unlink()
    os.mkfifo(job.dropped / "support.jsonl")
    assert run_stage(Stage.CHECK, job, timeout=30) == 2
    assert "no ordinary file" in job.problems(Stage.CHECK)[0].message


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("support.xlsx", "this is a spreadsheet; in the spreadsheet program choose Save as, CSV UTF-8"),
        ("support.csv", "this is a zip archive or a spreadsheet; drop the .jsonl inside it, or a CSV"),
        ("support.docx", "files ending in .docx are no datasets; save its rows as .jsonl"),
    ],
)
def test_a_file_of_another_kind_is_told_what_would_work(tmp_path, name, says):
    code, job = checked(tmp_path, {name: b"PK\x03\x04"}, library=RECIPE)
    assert code == 2
    assert says in job.problems(Stage.CHECK)[0].message


def test_a_recipe_alone_asks_for_its_dataset(tmp_path):
    code, job = checked(tmp_path, {"support.yaml": RECIPE + "dataset: other.jsonl\n"})
    assert code == 2
    (problem,) = job.problems(Stage.CHECK)
    assert problem.reason is Reason.DATASET_MISSING
    assert "drop other.jsonl, which the recipe asks for, together with the recipe" in problem.message


def test_the_dataset_that_the_recipe_names_is_the_one_it_gets(tmp_path):
    recipe = RECIPE + "dataset: other.jsonl\n"
    code, job = checked(tmp_path, {"support.jsonl": jsonl(ROWS), "support.yaml": recipe})
    assert code == 2
    assert str(job.problems(Stage.CHECK)[0]) == (
        "support.yaml:3: dataset is other.jsonl, but the file that came with the recipe is support.jsonl;"
        " correct the one or the other"
    )
    assert checked(tmp_path / "b", {"other.jsonl": jsonl(ROWS), "support.yaml": recipe})[0] == 0


def test_the_rows_of_an_earlier_job_need_no_name(tmp_path):
    recipe = RECIPE + "dataset: job:0007\n"
    job = make_job(tmp_path, {"support.jsonl": jsonl(ROWS), "again.yaml": recipe})
    record = job.read_job()
    # As intake leaves it: the dataset came from the earlier job, not from the inbox.
    job.write_job(replace(record, files=(replace(record.files[0], source=""), record.files[1])))
    assert run_stage(Stage.CHECK, job) == 0

    code, job = checked(tmp_path / "b", {"support.jsonl": jsonl(ROWS), "again.yaml": recipe})
    assert code == 2
    (problem,) = job.problems(Stage.CHECK)
    assert "but support.jsonl came with the recipe; leave out the file, or the line" in problem.message


def test_a_name_typed_on_a_mac_is_the_same_name(tmp_path):
    recipe = RECIPE + "dataset: U\u0308bersicht.jsonl\n"
    assert checked(tmp_path, {"\u00dcbersicht.jsonl": jsonl(ROWS), "a.yaml": recipe})[0] == 0


DIGEST = hashlib.sha256(jsonl(ROWS).encode()).hexdigest()


def test_a_hash_that_fits_is_accepted_in_the_recipe_and_beside_the_file(tmp_path):
    files = {
        "support.jsonl": jsonl(ROWS),
        "support.yaml": f"{RECIPE}sha256: '{DIGEST.upper()}'\n",
        "support.sha256": f"{'0' * 64}  other.jsonl\n{DIGEST} *support.jsonl\n",
    }
    assert checked(tmp_path, files)[0] == 0


def test_a_hash_that_does_not_fit_means_the_copy_is_not_whole(tmp_path):
    files = {
        "support.jsonl": jsonl(ROWS),
        "support.yaml": f"{RECIPE}sha256: '{'0' * 64}'\n",
        "support.jsonl.sha256": f"{'1' * 64}\n",
    }
    code, job = checked(tmp_path, files)
    assert code == 2
    problems = job.problems(Stage.CHECK)
    assert [(problem.file, problem.line, problem.code) for problem in problems] == [
        ("support.yaml", 3, "sha256_mismatch"),
        ("support.jsonl.sha256", None, "sha256_mismatch"),
    ]
    assert {problem.reason for problem in problems} == {Reason.TRUNCATED}
    assert "copy it again" in problems[0].message


def test_a_checksum_file_without_a_checksum_says_so(tmp_path):
    files = {"support.jsonl": jsonl(ROWS), "support.yaml": RECIPE, "support.sha256": "md5 is fine too"}
    code, job = checked(tmp_path, files)
    assert code == 2
    assert job.problems(Stage.CHECK)[0].code == "bad_checksum_file"


def test_held_out_rows_of_another_type_are_refused(tmp_path):
    files = {"support.jsonl": jsonl(ROWS), "support.eval.jsonl": '{"text": "a"}\n', "support.yaml": RECIPE}
    code, job = checked(tmp_path, files)
    assert code == 2
    assert str(job.problems(Stage.CHECK)[0]).startswith("support.eval.jsonl: the held-out rows are text")


def test_a_base_model_outside_the_allow_list_is_refused_with_the_list(tmp_path):
    library = tmp_path / "recipes"
    library.mkdir()
    (library / "eight.yaml").write_text("base_model: org/eight\n")
    files = {"support.jsonl": jsonl(ROWS), "support.yaml": "base_model: org/nine\n"}
    code, job = checked(tmp_path, files, APPLIANCE_RECIPES=str(library))
    assert code == 2
    (problem,) = job.problems(Stage.CHECK)
    assert (problem.code, problem.line, problem.reason) == ("model_not_allowed", 1, Reason.MODEL_NOT_ALLOWED)
    assert problem.message == (
        "base_model is org/nine, which is not allowed here; these are: demo, org/eight,"
        " unsloth/eight-unsloth-bnb-4bit, unsloth/eight-bnb-4bit"
    )


def verdict(recipe: str, settings: Settings, tmp_path: Path) -> Checked:
    (tmp_path / "r.yaml").write_text(recipe)
    return check_files(Files(recipe=Source("r.yaml", tmp_path / "r.yaml")), settings)


def test_the_allow_list_is_the_administrators(tmp_path):
    settings = Settings(allowed_base_models=("org/*", "exact/one"), models=tmp_path, recipes=tmp_path)
    assert verdict("base_model: org/any\n", settings, tmp_path).problems == ()
    assert verdict("base_model: exact/one\n", settings, tmp_path).problems == ()
    assert verdict("base_model: demo\n", settings, tmp_path).problems == ()
    assert [problem.code for problem in verdict("base_model: exact/two\n", settings, tmp_path).problems] == [
        "model_not_allowed"
    ]


def test_whatever_lies_in_the_models_folder_may_be_used_by_either_name(tmp_path):
    (tmp_path / "org--name").mkdir()
    (tmp_path / "org--name" / "config.json").write_text("{}")
    settings = Settings(allowed_base_models=(), models=tmp_path, recipes=tmp_path)
    assert verdict("base_model: org--name\n", settings, tmp_path).problems == ()
    assert verdict("base_model: org/name\n", settings, tmp_path).problems == ()


def test_loose_files_are_checked_without_a_job_and_without_writing_anything(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl(ROWS).encode()))
    done = []
    source = Source("a.jsonl.gz", tmp_path / "a.jsonl.gz")
    result = check_files(Files(dataset=source), Settings(), progress=done.append)
    assert result.problems == ()
    assert result.recipe is None
    assert result.dataset is not None
    assert result.dataset.rows == done[-1] == 40
    assert result.dataset_sha256 == hashlib.sha256((tmp_path / "a.jsonl.gz").read_bytes()).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl.gz"]


def test_a_name_says_the_kind_whatever_its_case(tmp_path):
    (tmp_path / "x").write_text(jsonl(ROWS))
    assert check_files(Files(dataset=Source("Support.JSONL", tmp_path / "x")), Settings()).problems == ()


def test_the_recipes_that_ship_are_in_order():
    for path in sorted(Path("recipes").glob("*.yaml")):
        assert check_files(Files(recipe=Source(path.name, path)), Settings()).problems == (), path


@pytest.mark.parametrize("name", ["alpaca.json", "text.jsonl", "messages.jsonl.gz", "text.json"])
def test_one_row_is_enough(tmp_path, name):
    rows = {
        "alpaca.json": b'[{"instruction": "Add.", "input": "40 and 2", "output": "42"}]',
        "text.jsonl": b'{"text": "Once."}',
        "messages.jsonl.gz": gzip.compress(b'{"messages": [{"role": "assistant", "content": "Hello"}]}\n'),
        "text.json": b'{"text": "Once."}\n',
    }
    code, job = checked(tmp_path, {name: rows[name]}, library=RECIPE)
    assert code == 0
    assert job.result(Stage.CHECK)["rows"] == 1


def test_the_stage_starts_quickly_and_imports_nothing_heavy():
    program = (
        "import sys, appliance.stages.check;"
        "print([name for name in ('torch', 'transformers', 'datasets', 'pyarrow', 'numpy') if name in sys.modules])"
    )
    # Processor time, and the best of several: another program's load is not our slowness.
    seconds = [cpu_seconds_of_children()]
    for _ in range(3):
        done = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert done.communicate()[0] == b"[]\n"
        seconds.append(cpu_seconds_of_children())
    assert min(after - before for before, after in pairwise(seconds)) < 1.0


def cpu_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_checking_again_after_a_kill_gives_the_same(tmp_path):
    job = make_job(tmp_path, {"support.jsonl": jsonl(ROWS), "support.yaml": RECIPE})
    (job.stage(Stage.CHECK) / "rows.jsonl").write_text('{"row": 1, "text": "half a ro')
    (job.stage(Stage.CHECK) / "problems.json").write_text("[]")
    assert run_stage(Stage.CHECK, job) == 0
    assert len(written(job.path / "check" / "rows.jsonl")) == 40
    assert not (job.path / "check" / "problems.json").exists()
