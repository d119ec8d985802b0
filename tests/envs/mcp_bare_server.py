"""An MCP server without the SDK, which lists what it is told to: `mcp_bare_server.py TOOL... [--endless]`."""

import json
import sys

names = [name for name in sys.argv[1:] if name != "--endless"]
tools = [{"name": name, "inputSchema": {"type": "object", "properties": None, "required": None}} for name in names]
listed = {"tools": tools, **({"nextCursor": "again"} if "--endless" in sys.argv else {})}

for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    match message["method"]:
        case "initialize":
            version = message["params"]["protocolVersion"]
            server = {"name": "bare", "version": "1"}
            answer["result"] = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}
        case "tools/list":
            answer["result"] = listed
        case other:
            answer["error"] = {"code": -32601, "message": f"no method {other}"}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
