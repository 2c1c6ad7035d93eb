"""What TGI 3.3's API documents: operations, and the fields of each schema. Names and types only."""

__all__ = ["OPERATIONS", "SCHEMAS", "UNIONS", "VALUES"]

OPERATIONS = """
post /                      compat_generate          CompatGenerateRequest  200 422 424 429 500
post /generate              generate                 GenerateRequest        200 422 424 429 500
post /generate_stream       generate_stream          GenerateRequest        200 422 424 429 500
post /v1/chat/completions   chat_completions         ChatRequest            200 422 424 429 500
post /v1/completions        completions              CompletionRequest      200 422 424 429 500
post /tokenize              tokenize                 GenerateRequest        200
post /chat_tokenize         get_chat_tokenize        ChatRequest            200
post /invocations           sagemaker_compatibility  SagemakerRequest       200 422 424 429 500
post /vertex                vertex_compatibility     VertexRequest          200 422 424 429 500
get  /v1/models             openai_get_model_info    -                      200
get  /info                  get_model_info           -                      200
get  /health                health                   -                      200 503
get  /metrics               metrics                  -                      200
"""
"""Method, path, operation id, schema of the request, statuses. Left out: 404, which TGI documents and never answers."""

SCHEMAS = """
GenerateRequest: inputs*=string parameters=GenerateParameters
CompatGenerateRequest: inputs*=string parameters=GenerateParameters stream=boolean
GenerateParameters: best_of=integer? temperature=number? repetition_penalty=number? frequency_penalty=number?
    top_k=integer? top_p=number? typical_p=number? do_sample=boolean max_new_tokens=integer? return_full_text=boolean?
    stop=[string] truncate=integer? watermark=boolean details=boolean decoder_input_details=boolean seed=integer?
    top_n_tokens=integer? grammar=GrammarType? adapter_id=string?
JsonSchemaConfig: name=string? schema*=any
GenerateResponse: generated_text*=string details=Details?
Details: finish_reason*=FinishReason generated_tokens*=integer seed=integer? prefill*=[PrefillToken] tokens*=[Token]
    best_of_sequences=[BestOfSequence]? top_tokens=[[Token]]
BestOfSequence: generated_text*=string finish_reason*=FinishReason generated_tokens*=integer seed=integer?
    prefill*=[PrefillToken] tokens*=[Token] top_tokens=[[Token]]
PrefillToken: id*=integer text*=string logprob*=number?
Token: id*=integer text*=string logprob*=number? special*=boolean
StreamResponse: index*=integer token*=Token top_tokens=[Token] generated_text=string? details=StreamDetails?
StreamDetails: finish_reason*=FinishReason generated_tokens*=integer seed=integer? input_length*=integer
SimpleToken: id*=integer text*=string start*=integer stop*=integer
ErrorResponse: error*=string error_type*=string
Info: model_id*=string model_sha=string? model_pipeline_tag=string? max_concurrent_requests*=integer
    max_best_of*=integer max_stop_sequences*=integer max_input_tokens*=integer max_total_tokens*=integer
    validation_workers*=integer max_client_batch_size*=integer router*=string version*=string sha=string?
    docker_label=string?
ChatRequest: model=string? messages*=[Message] frequency_penalty=number? logit_bias=[number]? logprobs=boolean?
    top_logprobs=integer? max_tokens=integer? n=integer? presence_penalty=number? stop=[string]? stream=boolean
    seed=integer? temperature=number? top_p=number? tools=[Tool]? tool_prompt=string? tool_choice=ToolChoice?
    response_format=any? stream_options=StreamOptions?
StreamOptions: include_usage=boolean
Message: role*=string name=string? content=MessageContent tool_calls=[ToolCall]
Url: url*=string
Tool: type*=string function*=FunctionDefinition
ToolCall: id*=string type*=string function*=FunctionDefinition
FunctionDefinition: name*=string description=string? arguments*=any
FunctionName: name*=string
ChatTokenizeResponse: tokenize_response*=TokenizeResponse templated_text*=string
ChatCompletion: id*=string created*=integer model*=string system_fingerprint*=string
    choices*=[ChatCompletionComplete] usage*=Usage
ChatCompletionComplete: index*=integer message*=OutputMessage logprobs=ChatCompletionLogprobs? finish_reason*=string
ChatCompletionLogprobs: content*=[ChatCompletionLogprob]
ChatCompletionLogprob: token*=string logprob*=number top_logprobs*=[ChatCompletionTopLogprob]
ChatCompletionTopLogprob: token*=string logprob*=number
TextMessage: role*=string content*=string tool_call_id=string?
ToolCallMessage: role*=string tool_calls*=[ToolCall]
Usage: prompt_tokens*=integer completion_tokens*=integer total_tokens*=integer
ChatCompletionChunk: id*=string created*=integer model*=string system_fingerprint*=string
    choices*=[ChatCompletionChoice] usage=Usage?
ChatCompletionChoice: index*=integer delta*=ChatCompletionDelta logprobs=ChatCompletionLogprobs? finish_reason=string?
ToolCallDelta: role*=string tool_calls*=[DeltaToolCall]
DeltaToolCall: index*=integer id*=string type*=string function*=Function
Function: name=string? arguments*=string
CompletionRequest: model=string? prompt*=Prompt max_tokens=integer? temperature=number? top_p=number? stream=boolean
    seed=integer? suffix=string? repetition_penalty=number? frequency_penalty=number? stop=[string]?
CompletionFinal: id*=string created*=integer model*=string system_fingerprint*=string choices*=[CompletionComplete]
    usage*=Usage
Chunk: id*=string created*=integer model*=string system_fingerprint*=string choices*=[CompletionComplete]
CompletionComplete: index*=integer text*=string logprobs=any? finish_reason*=string
ModelInfo: id*=string object*=string created*=integer owned_by*=string
VertexRequest: instances*=[VertexInstance]
VertexResponse: predictions*=[string]
"""
"""``*``: required. ``?``: may be null.

Folded into others: MessageBody, which is Message's ``content`` or ``tool_calls``, and Completion, which is
CompletionFinal or Chunk. ``any``: ``response_format`` takes more than GrammarType here; the
``logprobs`` of a completion, a list that TGI never fills, are OpenAI's object."""

UNIONS = {
    "TokenizeResponse": {"SimpleToken"},
    "MessageContent": {"MessageChunk"},
    "OutputMessage": {"TextMessage", "ToolCallMessage"},
    "ChatCompletionDelta": {"TextMessage", "ToolCallDelta"},
    "SagemakerRequest": {"CompatGenerateRequest", "ChatRequest", "CompletionRequest"},
    "SagemakerResponse": {"GenerateResponse", "ChatCompletion", "CompletionFinal"},
    "SagemakerStreamResponse": {"StreamResponse", "ChatCompletionChunk", "Chunk"},
    "VertexInstance": {"GenerateVertexInstance", "ChatRequest"},
}
"""Schemas without fields of their own, and the schemas that they lead to."""

VALUES = {
    "FinishReason": {"length", "eos_token", "stop_sequence"},
    "GrammarType": {"json", "regex", "json_schema"},
    "ResponseFormat": {"json", "regex", "json_schema"},
    "MessageChunk": {"text", "image_url"},
}
"""The words of an enumeration, or the ``type`` of each member of a union."""
