"""Why a contract is not deployed, or a call of one fails: one class for each reason. The fee for the fuel is paid."""

from __future__ import annotations

from blockcloud.service_chain.rejections import Failed


class ContractRefused(Failed):
    """The module is not one that this ledger runs."""

    code = "contract_refused"


class ContractMalformed(ContractRefused):
    """The bytes are not a WebAssembly module."""

    code = "contract_malformed"


class ContractTooLarge(ContractRefused):
    """The module, or a part of it, is larger than its limit."""

    code = "contract_too_large"


class ContractUsesFloats(ContractRefused):
    """The module uses floating point numbers; contracts compute with integers only."""

    code = "contract_uses_floats"


class ContractUsesSimd(ContractRefused):
    """The module uses vector instructions."""

    code = "contract_uses_simd"


class ContractUsesThreads(ContractRefused):
    """The module uses atomic instructions or shared memory."""

    code = "contract_uses_threads"


class ContractUsesExtension(ContractRefused):
    """The module uses a part of WebAssembly outside the profile: bulk memory, references, tail calls or others."""

    code = "contract_uses_extension"
    hint = "Compile for the first version of WebAssembly, with sign extension at the most."


class ContractMemoryTooLarge(ContractRefused):
    """The module asks for more memory than a contract may have."""

    code = "contract_memory_too_large"


class ContractHasStart(ContractRefused):
    """The module has a start function; what is to run at deployment belongs into `init`."""

    code = "contract_has_start"
    hint = "What a compiler wants to run first in every call may be exported as `_initialize`."


class ContractImport(ContractRefused):
    """The module imports something that is no host function of this ledger, or with another type."""

    code = "contract_import"


class ContractExport(ContractRefused):
    """The module's exports are not those of a contract."""

    code = "contract_export"


class ContractExists(Failed):
    """This account has deployed this code with this salt before."""

    code = "contract_exists"


class UnknownContract(Failed):
    """There is no contract at this address."""

    code = "unknown_contract"


class UnknownMethod(Failed):
    """The contract has no method of this name."""

    code = "unknown_method"


class OutOfFuel(Failed):
    """The call used up its fuel."""

    code = "out_of_fuel"
    hint = "Give it more fuel; what is not used is not paid."


class ContractTrapped(Failed):
    """The contract did something that WebAssembly forbids, such as dividing by zero or reading outside its memory."""

    code = "contract_trapped"


class ContractStackOverflow(Failed):
    """Functions of the contract called each other too deeply."""

    code = "contract_stack_overflow"


class ContractReverted(Failed):
    """The contract refused."""

    code = "contract_reverted"


class ContractReentered(Failed):
    """A contract that is being executed was called again."""

    code = "contract_reentered"


class CallTooDeep(Failed):
    """Contracts called each other too deeply."""

    code = "call_too_deep"


class ContractReadOnly(Failed):
    """A query tried to change something."""

    code = "contract_read_only"


class HostMemory(Failed):
    """The contract gave a host function a place outside its memory."""

    code = "host_memory"


class HostLimit(Failed):
    """The contract gave a host function more than it takes, or something that it does not take."""

    code = "host_limit"


class TooManyEvents(Failed):
    """The contract told more than a transaction may tell."""

    code = "too_many_events"


class DepositLimitExceeded(Failed):
    """What is stored needs a larger deposit than the transaction allows."""

    code = "deposit_limit_exceeded"
    hint = "Allow a larger deposit; it comes back when the data is deleted."


class HostFault(Failed):
    """A host function failed in a way that nobody foresaw."""

    code = "host_fault"
