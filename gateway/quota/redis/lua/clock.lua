-- Time is the server's own: microseconds since 1970 (integer), so that all workers mean the same moment.
local function clock(_keys)
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end
