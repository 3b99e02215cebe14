"""The machine that a stage plans for: never the CPU of a machine whose GPU is only not answering."""

from appliance.errors import NotReadyError
from appliance.gpu_presence import find_fault, has_cuda_libraries
from appliance.hardware import this_machine
from appliance.job import Waiting
from appliance.planning.machine import Machine
from appliance.settings import Settings


def machine_to_plan_for(settings: Settings) -> Machine:
    """This machine. Raises NotReadyError while a GPU belongs here and does not answer: on the CPU the same training
    takes weeks, is cut in other pieces, or fits where it should not."""
    machine = this_machine(settings)
    if machine.kind == "cpu" and has_cuda_libraries():
        fault = find_fault() or "the GPU did not answer"
        raise NotReadyError(f"the training cannot be planned: {fault}", waiting=Waiting.GPU)
    return machine
