"""Jobs that other processes do: of this machine, of a Ray cluster, or of Slurm. No torch here.

A job is plain data that names what it asks for by its `kind`:

    job = new_job("shard", folder, {"task": "mnist", "start": 0, "stop": 500})
    for number, answer in launch([job, …], recipe.runtime.launcher, recipe.runtime.threads):
        found = value_of(answer)                # what the function returned; raises the error that it raised

Who brings a new kind of job adds a line to `fusionbench.launch.jobs.KINDS`: kind → "module:function". The function
takes the job and returns plain data, both what JSON can hold. The contract:

- It is called in another process, in the folder in which the command was started, so that relative paths mean what they
  mean there. Its module is imported when the first such job comes.
- A job may be done twice: one whose process is lost (killed, a machine gone) is tried once more, and a command that is
  killed begins again. So it writes under a final name only what is whole (`write_whole`, a rename), and finds what an
  earlier attempt has finished.
- Large results go to files in the folder, which all machines share; the answer says where.
- A `FusionBenchError` that it raises is its answer; so is any other exception, as a bug, with the traceback. No other
  job is lost by it. `Interrupted` and `KeyboardInterrupt` go through: the process is told to stop.
"""

from fusionbench.launch.jobs import Answer, Job, new_job, value_of
from fusionbench.launch.launching import interruptible, launch

__all__ = ["Answer", "Job", "interruptible", "launch", "new_job", "value_of"]
