"""What a run leaves behind: `report.json` (numbers only), `run.json` (time, memory, environment), and long form.

Nothing here imports torch.
"""

from fusionbench.records.files import write_whole as write_whole
from fusionbench.records.long_form import COLUMNS as COLUMNS
from fusionbench.records.long_form import rows as rows
from fusionbench.records.long_form import write_long as write_long
from fusionbench.records.places import fetched as fetched
from fusionbench.records.places import input_place as input_place
from fusionbench.records.places import is_address as is_address
from fusionbench.records.places import local_of as local_of
from fusionbench.records.places import output_place as output_place
from fusionbench.records.places import publish_files as publish_files
from fusionbench.records.places import published as published
from fusionbench.records.remote import Remote as Remote
from fusionbench.records.results import REPORT as REPORT
from fusionbench.records.results import DataUse as DataUse
from fusionbench.records.results import MethodRef as MethodRef
from fusionbench.records.results import ModelFacts as ModelFacts
from fusionbench.records.results import PrimaryAverage as PrimaryAverage
from fusionbench.records.results import Report as Report
from fusionbench.records.results import SuiteRef as SuiteRef
from fusionbench.records.results import Variant as Variant
from fusionbench.records.run_info import RUN as RUN
from fusionbench.records.run_info import Environment as Environment
from fusionbench.records.run_info import RunInfo as RunInfo
from fusionbench.records.run_info import peak_memory as peak_memory
from fusionbench.records.runs import RECIPE as RECIPE
from fusionbench.records.runs import Run as Run
from fusionbench.records.runs import find_runs as find_runs
from fusionbench.records.scores import FRACTION as FRACTION
from fusionbench.records.scores import MetricInfo as MetricInfo
from fusionbench.records.scores import Score as Score
from fusionbench.records.scores import TaskScore as TaskScore
