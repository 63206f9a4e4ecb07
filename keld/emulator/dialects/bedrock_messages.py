"""Bedrock messages: a Messages body by InvokeModel -> a message of Claude; the model is in the URL, or in the create of a batch."""

from dataclasses import dataclass

import msgspec

from ..answer import Answerer
from ..cache import PromptCache
from ..dialect import Conditions, Made
from ..error import ApiError
from .anthropic_body import hosted, read
from .anthropic_messages import Messages
from .converse import model_unknown
from .converse_body import invalid

VERSION = "bedrock-2023-05-31"


@dataclass(frozen=True)
class BedrockMessages:
    """The dialect of one model; `flex`: the request's header asked for that tier."""

    answerer: Answerer
    cache: PromptCache
    model: str
    flex: bool = False

    def make(self, body: bytes, conditions: Conditions) -> Made:
        if conditions.fate == "model_not_found":
            raise model_unknown()
        try:
            whole = hosted(body, self.model.rpartition("anthropic.")[2], VERSION, VERSION.__eq__)
            made = Messages(self.answerer, self.cache).answer(read(whole), body, conditions)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise invalid("Malformed input request, please reformat your input and try again.") from error
        except ApiError as error:
            raise ApiError(
                status=error.status, message=error.message, code="ValidationException" if error.status == 400 else None
            ) from error
        flex = self.flex and not conditions.batch and conditions.fate != "standard_tier"
        return made._replace(
            # On Bedrock the tier is told in a header, not in the usage.
            body=made.body.replace(f',"service_tier":"{made.lane}","inference_geo":"global"', ""),
            model=self.model,
            lane="flex" if flex else made.lane,
        )
