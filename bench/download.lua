-- wrk: GETs of the paths in the file PATHS, in turn, with TOKEN (may be empty). Every request is made beforehand.
function init(args) -- the header Host is set by now
  local token = os.getenv("TOKEN")
  if token ~= "" then wrk.headers["Authorization"] = "Bearer " .. token end
  requests, number = {}, 0
  for path in io.lines(os.getenv("PATHS")) do requests[#requests + 1] = wrk.format("GET", path) end
end

function request()
  number = number % #requests + 1
  return requests[number]
end

dofile(os.getenv("REPORT"))
