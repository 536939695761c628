-- Time is the server's own: microseconds since 1970 (integer), so that all workers mean the same moment.
local function clock(_keys)
  local seconds, rest = unpack(redis.call('TIME'))
  return tonumber(seconds) * 1000000 + tonumber(rest)
end
