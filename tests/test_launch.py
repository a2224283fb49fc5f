"""The launch scripts: their dry runs, their errors, and what they do with processes, with stand-ins
for the programs they call.
"""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "launch").glob("*.s*"))

# Takes the place of the Python that has factshock: records how it was called as a file of its
# process id, prints, and does as the verb's flags say. --exit_N=C: process N ends with code C;
# --wait: the others wait for a signal and end with 75, as the verbs do.
STAND_IN = """\
import json, os, signal, sys, time
argv = sys.argv[1:]
number = next((a.split("=")[1] for a in argv if a.startswith("--process=")), "0")
cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
seen = []
def note(got, frame):
  seen.append(got)
for name in (signal.SIGTERM, signal.SIGINT):
  signal.signal(name, note)
folder = os.environ["RECORDS"]
def record():
  with open(os.path.join(folder, f".{number}"), "w") as file:
    found = {"argv": argv, "cores": cores, "signals": seen}
    tpu = {name: value for name, value in os.environ.items() if "TPU_" in name}
    json.dump({**found, "JAX_PLATFORMS": os.environ["JAX_PLATFORMS"], "tpu": tpu}, file)
  os.replace(os.path.join(folder, f".{number}"), os.path.join(folder, number))
record()
print("process", number, "speaks", flush=True)
codes = [int(a.split("=")[1]) for a in argv if a.startswith(f"--exit_{number}=")]
if "--wait" in argv and not codes:
  while not seen:
    time.sleep(0.02)
  time.sleep(0.3)  # while it saves, a second signal would end a verb at once
  record()
  codes = [75]
sys.exit(codes[0] if codes else 0)
"""


@pytest.fixture
def stand_in(tmp_path):
  """The environment of a script whose Python is the stand-in; what that was called with comes into
  tmp_path/records.
  """
  (tmp_path / "records").mkdir()
  _program(tmp_path / "python", f"#!{sys.executable} -SE\n{STAND_IN}")
  return _environment(FACTSHOCK_PYTHON=tmp_path / "python", RECORDS=tmp_path / "records")


def _program(path, text):
  path.write_text(text)
  path.chmod(0o755)


def _environment(**changes):
  kept = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("JAX_", "SLURM_", "FACTSHOCK_"))
  }
  return kept | {name: str(value) for name, value in changes.items()}


def _run(script, *arguments, env=None, code=0, cwd=ROOT):
  """stdout and stderr of a script that must end with `code`."""
  done = subprocess.run(
    ["bash", str(ROOT / "launch" / script), *arguments],
    env=env or _environment(),
    cwd=cwd,
    capture_output=True,
    text=True,
    timeout=60,
    stdin=subprocess.DEVNULL,
  )
  assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
  return done.stdout, done.stderr


def _dry(script, *arguments, env=None):
  """The commands of a dry run as lists of words, as a shell reads them; prints nothing else."""
  return [
    shlex.split(line, comments=True)
    for line in _run(script, "--dry_run", *arguments, env=env)[0].splitlines()
  ]


def _records(folder, count):
  return [json.loads((folder / "records" / str(i)).read_text()) for i in range(count)]


def _until(true, what):
  for _ in range(200):
    if true():
      return
    time.sleep(0.05)
  raise AssertionError(f"in vain waited until {what}")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_read_every_script(script):
  subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize(
  "script", ["gpu.sh", "local_processes.sh", "slurm.sbatch", "tpu_vm.sh", "tpu_worker.sh"]
)
def test_help_says_how_to_call_it(script, tmp_path):
  text, errors = _run(script, "--help", cwd=tmp_path)
  assert f"launch/{script} " in text and not errors
  assert "source" not in text and not any(line.startswith("#") for line in text.splitlines())


@pytest.mark.parametrize(
  "script",
  ["check.sh", "demo.sh", "gpu_check.sh", "real_model.sh", "setup.sh", "test.sh", "wheels.sh"],
)
def test_help_of_scripts_that_install_says_how_to_call_them_and_installs_nothing(script, tmp_path):
  shutil.copytree(ROOT / "launch", tmp_path / "launch")
  done = subprocess.run(
    ["bash", f"launch/{script}", "--help"],
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0 and not done.stderr
  assert f"bash launch/{script}" in done.stdout and "source" not in done.stdout
  assert [path.name for path in tmp_path.iterdir()] == ["launch"]


@pytest.mark.parametrize(
  "driver, extra",
  [("570.86.15", "gpu_cuda12"), ("580.65.06", "gpu"), ("no devices were found", "gpu")],
)
def test_the_extra_for_gpus_goes_by_the_driver(driver, extra, tmp_path):
  _program(tmp_path / "nvidia-smi", f"#!/bin/sh\necho '{driver}'\n")
  env = _environment(PATH=f"{tmp_path}:{os.environ['PATH']}")
  assert ["bash", "launch/setup.sh", extra] in _dry("gpu.sh", "train", env=env)


@pytest.mark.parametrize(
  "script, arguments, says",
  [
    ("gpu.sh", [], "which verb?"),
    ("gpu.sh", ["console"], "no verb console"),
    ("gpu.sh", ["--fast", "train"], "unknown option --fast"),
    ("local_processes.sh", [], "how many processes?"),
    ("local_processes.sh", ["two", "train"], "not two"),
    ("local_processes.sh", ["0", "train"], "not 0"),
    ("local_processes.sh", ["2"], "which verb?"),
    ("local_processes.sh", ["2", "mix"], "answer, extract, train or experiment, not mix"),
    ("local_processes.sh", ["--ports=1", "2", "train"], "unknown option --ports=1"),
    ("slurm.sbatch", [], "which verb?"),
    ("slurm.sbatch", ["mix"], "answer, extract, train or experiment, not mix"),
    ("slurm.sbatch", ["train"], "sbatch"),
    ("tpu_vm.sh", [], "what is to be done?"),
    ("tpu_vm.sh", ["restart"], "unknown: restart"),
    ("tpu_vm.sh", ["--size=4", "create"], "unknown option --size=4"),
    ("tpu_vm.sh", ["start"], "which verb?"),
    ("tpu_vm.sh", ["start", "mix"], "the verb is answer, extract, train or experiment, not mix"),
    ("tpu_vm.sh", ["start", "--config=a"], "not --config=a"),
    ("tpu_vm.sh", ["collect"], "which WORKDIR?"),
    ("tpu_vm.sh", ["ssh"], "which COMMAND"),
  ],
)
def test_bad_input_is_one_error_on_stderr(script, arguments, says):
  out, errors = _run(script, *arguments, code=2)
  assert not out and errors.startswith("error: ") and errors.count("\n") == 1
  assert says in errors


def test_gpu_dry_run():
  commands = _dry("gpu.sh", "train", "--config=configs/demo.py", "--workdir=runs/a b", "--dry_run")
  assert commands == [
    ["nvidia-smi", "-L"],
    ["bash", "launch/setup.sh", "gpu"],
    [
      "env",
      "JAX_PLATFORMS=cuda,cpu",
      ".venv/bin/python",
      "-c",
      'import jax; print("JAX finds", *jax.devices("cuda"))',
    ],
    [
      "env",
      "JAX_PLATFORMS=cuda,cpu",
      ".venv/bin/python",
      "-m",
      "factshock.train",
      "--config=configs/demo.py",
      "--workdir=runs/a b",
      "--dry_run",
    ],
  ]


def test_gpu_runs_the_verb_where_there_is_a_gpu(stand_in, tmp_path):
  _program(tmp_path / "nvidia-smi", "#!/bin/sh\necho 'GPU 0: Stand-in'\n")
  stand_in["PATH"] = f"{tmp_path}:{stand_in['PATH']}"
  out, _ = _run("gpu.sh", "answer", "--model=a b", "--exit_0=0", env=stand_in)
  assert "GPU 0: Stand-in" in out
  [record] = _records(tmp_path, 1)
  assert record["argv"] == ["-m", "factshock.answer", "--model=a b", "--exit_0=0"]
  assert record["JAX_PLATFORMS"] == "cuda,cpu"


def test_gpu_does_not_run_on_the_cpu_in_silence(tmp_path):
  for name in ("bash", "dirname", "env", "grep", "tail"):
    (tmp_path / name).symlink_to(shutil.which(name))
  env = _environment(PATH=tmp_path, FACTSHOCK_PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="-1")
  _, errors = _run("gpu.sh", "train", env=env, code=2)
  assert errors == "error: no NVIDIA driver: nvidia-smi was not found\n"
  _program(tmp_path / "nvidia-smi", "#!/bin/sh\nexit 9\n")
  _, errors = _run("gpu.sh", "train", env=env, code=2)
  assert errors.startswith("error: the NVIDIA driver finds no GPU")
  _program(tmp_path / "nvidia-smi", "#!/bin/sh\necho 'GPU 0: Stand-in'\n")
  _, errors = _run("gpu.sh", "train", env=env, code=2)
  assert errors.startswith("error: JAX finds no GPU: ") and errors.count("\n") == 1


def test_local_processes_dry_run():
  commands = _dry(
    "local_processes.sh",
    "--port=2222",
    "2",
    "train",
    "--config=configs/demo.py",
    "--workdir=runs/a b",
  )
  assert commands[0] == ["bash", "launch/setup.sh", ""]
  for number, command in enumerate(commands[1:]):
    if "taskset" in command:
      assert command[2:4] == ["taskset", "-c"]
      del command[2:5]
    assert command == [
      "env",
      "JAX_PLATFORMS=cpu",
      ".venv/bin/python",
      "-m",
      "factshock.train",
      "--config=configs/demo.py",
      "--workdir=runs/a b",
      "--coordinator=127.0.0.1:2222",
      "--processes=2",
      f"--process={number}",
      f">>runs/a b.logs/process-{number}.log",
      "2>&1",
      "&",
    ]
  assert len(commands) == 3


@pytest.mark.parametrize("verb", ["answer", "extract"])
@pytest.mark.parametrize("script, before", [("local_processes.sh", ["2"]), ("slurm.sbatch", [])])
def test_processes_that_ask_share_the_questions_and_do_not_look_for_one_another(
  script, before, verb
):
  commands = _dry(script, *before, verb, "--model=a b", "--output=c")
  for command in [words for words in commands if f"factshock.{verb}" in words]:
    start = command.index(f"factshock.{verb}")
    assert command[start + 1 : start + 3] == ["--model=a b", "--output=c"]
    assert not any(word.startswith(("--distributed", "--process", "--coord")) for word in command)
  assert sum(f"factshock.{verb}" in words for words in commands) == int((before or ["1"])[0])


def test_local_processes_meet_on_one_free_port_and_share_the_cores(stand_in, tmp_path):
  out, _ = _run(
    "local_processes.sh",
    "2",
    "experiment",
    f"--workdir={tmp_path}/run/",
    "--config=a, b",
    env=stand_in,
  )
  assert out == "process 0 speaks\n"
  assert [(tmp_path / "run.logs" / f"process-{i}.log").read_text() for i in range(2)] == [
    "process 0 speaks\n",
    "process 1 speaks\n",
  ]
  assert not (tmp_path / "run").exists()  # an experiment wants an empty one
  first, second = _records(tmp_path, 2)
  assert first["argv"][:4] == [
    "-m",
    "factshock.experiment",
    f"--workdir={tmp_path}/run/",
    "--config=a, b",
  ]
  assert first["argv"][4:] == [second["argv"][4], "--processes=2", "--process=0"]
  assert second["argv"][4].startswith("--coordinator=127.0.0.1:")
  if shutil.which("taskset") and len(os.sched_getaffinity(0)) > 1:
    assert sorted(first["cores"] + second["cores"]) == sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize(
  "codes, expected", [({}, 0), ({0: 75, 1: 75}, 75), ({1: 75}, 75), ({0: 75, 1: 3}, 3)]
)
def test_local_processes_exit_code(codes, expected, stand_in, tmp_path):
  _run(
    "local_processes.sh",
    f"--logs={tmp_path / 'logs'}",
    "2",
    "train",
    *(f"--exit_{i}={code}" for i, code in codes.items()),
    env=stand_in,
    code=expected,
  )


def test_local_processes_end_with_the_first_that_fails(stand_in, tmp_path):
  _, errors = _run(
    "local_processes.sh",
    f"--logs={tmp_path / 'logs'}",
    "3",
    "train",
    "--exit_1=4",
    "--wait",
    env=stand_in,
    code=4,
  )
  assert "process 1 ended with exit code 4" in errors and "process 1 speaks" in errors
  assert [record["signals"] for record in _records(tmp_path, 3)] == [
    [signal.SIGTERM],
    [],
    [signal.SIGTERM],
  ]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("to", ["script", "group"])
def test_local_processes_pass_a_signal_on_once(name, to, stand_in, tmp_path):
  """Ctrl-C in a terminal goes to the whole group of processes; the verbs must still get one
  alone.
  """
  number = getattr(signal, name)
  script = subprocess.Popen(
    ["bash", "launch/local_processes.sh", f"--logs={tmp_path / 'logs'}", "2", "train", "--wait"],
    cwd=ROOT,
    env=stand_in,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )
  try:
    _until(
      lambda: all((tmp_path / "records" / str(i)).exists() for i in range(2)),
      "both processes have started",
    )
    (os.killpg if to == "group" else os.kill)(script.pid, number)
    out, _ = script.communicate(timeout=30)
  finally:
    script.kill()
  assert script.returncode == 75, out
  assert [record["signals"] for record in _records(tmp_path, 2)] == [[number], [number]]


def test_slurm_dry_run():
  commands = _dry("slurm.sbatch", "train", "--config=a b", "--dry_run")
  assert commands == [
    ["bash", "launch/setup.sh", "gpu"],
    [
      "srun",
      "--kill-on-bad-exit=0",
      "--cpu-bind=none",
      "env",
      "JAX_PLATFORMS=cuda,cpu",
      ".venv/bin/python",
      "-m",
      "factshock.train",
      "--config=a b",
      "--dry_run",
      "--distributed",
    ],
    ["scontrol", "requeue", "$SLURM_JOB_ID"],
  ]


@pytest.mark.parametrize("code, again", [(0, False), (3, False), (75, True)])
def test_slurm_puts_a_saved_run_into_the_queue_again(code, again, stand_in, tmp_path):
  """Slurm runs a copy of the script, from a folder of its own."""
  spool = tmp_path / "spool" / "slurm_script"
  spool.parent.mkdir()
  shutil.copy(ROOT / "launch" / "slurm.sbatch", spool)
  _program(tmp_path / "srun", '#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n')
  _program(tmp_path / "scontrol", f'#!/bin/sh\necho "$@" >>{tmp_path}/requeued\n')
  env = stand_in | {
    "PATH": f"{tmp_path}:{stand_in['PATH']}",
    "SLURM_SUBMIT_DIR": str(ROOT),
    "SLURM_JOB_ID": "17",
  }
  done = subprocess.run(
    ["bash", spool, "train", f"--exit_0={code}"],
    cwd=tmp_path,
    env=env,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == code, done.stderr
  assert (tmp_path / "requeued").exists() == again
  if again:
    assert (tmp_path / "requeued").read_text() == "requeue 17\n"
  [record] = _records(tmp_path, 1)
  assert record["argv"] == ["-m", "factshock.train", f"--exit_0={code}", "--distributed"]
  assert record["JAX_PLATFORMS"] == "cuda,cpu"


def test_slurm_says_where_to_submit_from(tmp_path):
  shutil.copy(ROOT / "launch" / "slurm.sbatch", tmp_path / "slurm_script")
  done = subprocess.run(
    ["bash", tmp_path / "slurm_script", "train"],
    cwd=tmp_path,
    env=_environment(SLURM_SUBMIT_DIR=tmp_path),
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.returncode == 2 and done.stderr.startswith("error: submit it from the clone")


_PLACE = ["--zone=us-east5-b", "--project=facts"]
_TPU = ["gcloud", "compute", "tpus", "tpu-vm"]


def _ssh(command, worker="all"):
  return [*_TPU, "ssh", "mine", f"--worker={worker}", f"--command={command}", *_PLACE]


@pytest.mark.parametrize(
  "arguments, commands",
  [
    (
      ["create"],
      [
        [
          *_TPU,
          "create",
          "mine",
          "--accelerator-type=v6e-16",
          "--version=v2-alpha-tpuv6e",
          "--spot",
          *_PLACE,
        ]
      ],
    ),
    (
      ["copy"],
      [
        ["mkdir", "-p", "build"],
        ["git", "archive", "--format=tar.gz", "--output=build/factshock.tar.gz", "HEAD"],
        [*_TPU, "scp", "build/factshock.tar.gz", "mine:", "--worker=all", *_PLACE],
        _ssh("mkdir -p factshock && tar -xzf factshock.tar.gz -C factshock"),
      ],
    ),
    (["install"], [_ssh("cd factshock && bash launch/tpu_worker.sh install")]),
    (
      ["start", "train", "--config=a", "--workdir=/mnt/x"],
      [_ssh("cd factshock && bash launch/tpu_worker.sh start train --config=a --workdir=/mnt/x")],
    ),
    (["logs"], [_ssh("cd factshock && bash launch/tpu_worker.sh follow", worker="0")]),
    (["logs", "3"], [_ssh("cd factshock && bash launch/tpu_worker.sh follow", worker="3")]),
    (["logs", "all"], [_ssh("cd factshock && bash launch/tpu_worker.sh last_lines")]),
    (
      ["collect", "/mnt/x/"],
      [
        ["mkdir", "-p", "runs"],
        [*_TPU, "scp", "mine:/mnt/x", "runs/", "--recurse", "--worker=0", *_PLACE],
        [
          *_TPU,
          "scp",
          "mine:factshock/runs/tpu_vm.log",
          "runs/x/tpu_vm.log",
          "--worker=0",
          *_PLACE,
        ],
      ],
    ),
    (
      ["collect", "runs/x"],
      [
        ["mkdir", "-p", "runs"],
        [*_TPU, "scp", "mine:factshock/runs/x", "runs/", "--recurse", "--worker=0", *_PLACE],
        [
          *_TPU,
          "scp",
          "mine:factshock/runs/tpu_vm.log",
          "runs/x/tpu_vm.log",
          "--worker=0",
          *_PLACE,
        ],
      ],
    ),
    (["stop"], [_ssh("cd factshock && bash launch/tpu_worker.sh stop")]),
    (["ssh", "df -h | tail"], [_ssh("df -h | tail")]),
    (["delete"], [[*_TPU, "delete", "mine", *_PLACE]]),
  ],
  ids=lambda value: "-".join(value).replace("/", "") if isinstance(value[0], str) else "",
)
def test_tpu_dry_run(arguments, commands):
  assert (
    _dry("tpu_vm.sh", "--name=mine", "--type=v6e-16", "--spot", *_PLACE, *arguments) == commands
  )


def test_tpu_arguments_survive_two_shells():
  verb = ["train", "--config=configs/demo.py", '--config.facts=it\'s 50% of $HOME; "facts".jsonl']
  [command] = _dry("tpu_vm.sh", "start", *verb)
  [remote] = [word.removeprefix("--command=") for word in command if word.startswith("--command=")]
  assert shlex.split(remote) == [
    "cd",
    "factshock",
    "&&",
    "bash",
    "launch/tpu_worker.sh",
    "start",
    *verb,
  ]


@pytest.mark.parametrize("verb", ["answer", "extract"])
def test_tpu_workers_do_not_wait_for_others_to_answer(stand_in, tmp_path, verb):
  for kind in ("v4-8", "v5litepod-8", "v6e-16"):
    [command] = _dry("tpu_vm.sh", f"--type={kind}", "start", verb, "--model=m")
    assert f"--command=cd factshock && bash launch/tpu_worker.sh start {verb} --model=m" in command
  shutil.copytree(ROOT / "launch", tmp_path / "launch")
  worker = ["bash", "launch/tpu_worker.sh", "run", verb, "--model=m"]
  subprocess.run(worker, cwd=tmp_path, env=stand_in, check=True, timeout=60)
  [record] = _records(tmp_path, 1)
  assert record["argv"] == ["-m", f"factshock.{verb}", "--model=m"]
  assert record["tpu"]["TPU_PROCESS_BOUNDS"] == "1,1,1"  # a slice of one process
  (tmp_path / "records" / "0").unlink()
  worker[3] = "train"
  subprocess.run(worker, cwd=tmp_path, env=stand_in, check=True, timeout=60)
  [record] = _records(tmp_path, 1)
  assert record["argv"][-1] == "--distributed" and "TPU_PROCESS_BOUNDS" not in record["tpu"]


def test_tpu_workdir_of_several_workers_is_remarked_on():
  assert (
    "all of them see it" in _run("tpu_vm.sh", "--dry_run", "start", "train", "--workdir=runs/x")[1]
  )
  assert not _run("tpu_vm.sh", "--dry_run", "start", "train", "--workdir=/mnt/x")[1]
  said = _run("tpu_vm.sh", "--dry_run", "start", "answer", "--output=a.jsonl")[1]
  assert "--output has to be where all of them see it" in said


def test_tpu_says_that_gcloud_is_missing(tmp_path):
  for name in ("bash", "dirname"):
    (tmp_path / name).symlink_to(shutil.which(name))
  _, errors = _run("tpu_vm.sh", "create", env=_environment(PATH=tmp_path), code=2)
  assert errors.startswith("error: gcloud was not found") and errors.count("\n") == 1


@pytest.mark.parametrize("there, taken", [("python3.11", "python3.11"), (None, "/uv/python3.12")])
def test_tpu_install_brings_a_python_where_there_is_none(there, taken, tmp_path):
  shutil.copytree(ROOT / "launch", tmp_path / "launch")
  (tmp_path / "launch" / "setup.sh").write_text('echo "setup of $1 with $PYTHON"\n')
  for name in ("bash", "dirname"):
    (tmp_path / name).symlink_to(shutil.which(name))
  _program(tmp_path / "tmux", "#!/bin/sh\n")
  _program(
    tmp_path / "python3",
    f'#!/bin/sh\necho $@ >>{tmp_path}/calls\ncase "$*" in *find*) echo /uv/python3.12;; esac\n',
  )
  if there:
    _program(tmp_path / there, "#!/bin/sh\n")
  done = subprocess.run(
    ["bash", "launch/tpu_worker.sh", "install"],
    cwd=tmp_path,
    env=_environment(PATH=tmp_path),
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert done.stdout == f"setup of tpu with {taken}\n", done.stderr
  assert (tmp_path / "calls").exists() == (there is None)


# A worker in a folder: ssh runs its command there, scp copies to and from it.
GCLOUD = """\
import os, shutil, subprocess, sys
home, (verb, *rest) = os.environ["WORKER_HOME"], sys.argv[4:]
names = [word for word in rest if not word.startswith("--")]
if verb == "ssh":
  [command] = [word.split("=", 1)[1] for word in rest if word.startswith("--command=")]
  environment = {**os.environ, "HOME": home}
  sys.exit(subprocess.run(["bash", "-c", command], cwd=home, env=environment).returncode)
at_home = lambda name: os.path.join(home, name.split(":", 1)[1])
source, target = [at_home(name) if ":" in name else name for name in names]
subprocess.run(["cp", "-r", source, target], check=True)
"""


@pytest.mark.skipif(not shutil.which("tmux"), reason="no tmux")
def test_tpu_start_stop_and_collect_on_a_stand_in_worker(stand_in, tmp_path):
  clone, home = tmp_path / "clone", tmp_path / "home"
  home.mkdir()
  shutil.copytree(ROOT / "launch", clone / "launch")
  git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(clone)]
  for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
    subprocess.run([*git, *command], check=True)
  _program(tmp_path / "gcloud", f"#!{sys.executable} -SE\n{GCLOUD}")
  env = stand_in | {
    "PATH": f"{tmp_path}:{stand_in['PATH']}",
    "WORKER_HOME": str(home),
    "TMUX_TMPDIR": str(tmp_path),
  }
  env.pop("TMUX", None)

  def tpu(*arguments, code=0):
    done = subprocess.run(
      ["bash", str(clone / "launch" / "tpu_vm.sh"), *arguments],
      env=env,
      cwd=tmp_path,
      timeout=60,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    assert done.returncode == code, done.stdout
    return done.stdout

  try:
    tpu("copy")
    assert (home / "factshock" / "launch" / "tpu_worker.sh").exists()
    assert "started" in tpu(
      "start", "train", "--workdir=runs/x", "--config.facts=it's $HOME", "--wait"
    )
    _until(lambda: (tmp_path / "records" / "0").exists(), "the verb has started")
    assert "a run is going on" in tpu("start", "train", code=2)
    assert tpu("stop").strip().endswith("exit code 75")
    assert "no run is going on" in tpu("stop")
  finally:
    subprocess.run(["tmux", "kill-server"], env=env, stderr=subprocess.DEVNULL)
  [record] = _records(tmp_path, 1)
  assert record["argv"] == [
    "-m",
    "factshock.train",
    "--workdir=runs/x",
    "--config.facts=it's $HOME",
    "--wait",
    "--distributed",
  ]
  assert record["signals"] == [signal.SIGTERM] and record["JAX_PLATFORMS"] == "tpu,cpu"
  assert "process 0 speaks" in tpu("logs", "all")
  (home / "factshock" / "runs" / "x").mkdir()
  (home / "factshock" / "runs" / "x" / "config.json").write_text("{}")
  tpu("collect", "runs/x")
  assert (clone / "runs" / "x" / "config.json").exists()
  assert "process 0 speaks" in (clone / "runs" / "x" / "tpu_vm.log").read_text()
