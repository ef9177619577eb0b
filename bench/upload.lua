-- wrk: uploads of what is in the file CONTENT to UPLOAD_PATH. With NEW each begins with another number, so that no two
-- are alike. FORM: as a multipart form, else as the bare body. TOKEN and DIGEST (a Content-Digest) may be empty.
-- Whatever does not change is made once: a request is three strings put together, or one that is there.
local function given(name) local value = os.getenv(name); return value ~= "" and value or nil end
local number, new = 0, given("NEW")

function init(args) -- the header Host is set by now
  local file = assert(io.open(os.getenv("CONTENT"), "rb"))
  local content = file:read("*a")
  file:close()
  local before, after = "", ""
  if given("FORM") then
    before = "--bench\r\nContent-Disposition: form-data; name=\"file\"; filename=\"bench.bin\"\r\n\r\n"
    after = "\r\n--bench--\r\n"
    wrk.headers["Content-Type"] = "multipart/form-data; boundary=bench"
  else
    wrk.headers["Content-Type"] = "application/octet-stream"
  end
  if given("TOKEN") then wrk.headers["Authorization"] = "Bearer " .. os.getenv("TOKEN") end
  if given("DIGEST") then wrk.headers["Content-Digest"] = os.getenv("DIGEST") end
  -- Without a body format() ends in the empty line, and drops a Content-Length that it was given.
  local head = wrk.format("POST", os.getenv("UPLOAD_PATH")):sub(1, -3)
  local length = "Content-Length: " .. #before + #content + #after .. "\r\n\r\n"
  first = head .. length .. before
  last = content:sub(13) .. after
  whole = first .. content .. after
end

function request()
  if not new then return whole end
  number = number + 1
  return first .. string.format("%012d", number) .. last
end

dofile(os.getenv("REPORT"))
