#!lua name=plx1_keys
-- Kept values with revisions: a hash of r (the revision) and d (the bytes). KEYS[1] is the value's key. The
-- layout of every key is told in docs/redis.md. A script looks at every key that may be missing before it
-- writes (docs/redis.md, "Slots that move").
local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

local function holds(when, revision)
  if when == 'always' then return true end
  if when == 'absent' then return not revision end
  return when == revision
end

-- A hint: the name as an encoded string message (field 1).
local function tell(c, name)
  local size = #name < 128 and string.char(#name) or string.char(#name % 128 + 128, math.floor(#name / 128))
  redis.call('SPUBLISH', c .. 'k', '\10' .. size .. name)
end

-- Names of values that expired, a few with each write: all that are due, and those that are gone.
local function due(c, time)
  local names, gone = redis.call('ZRANGEBYSCORE', c .. 'X', '-inf', time, 'LIMIT', 0, 16), {}
  for _, name in ipairs(names) do
    if redis.call('EXISTS', c .. 'v:' .. name) == 0 then gone[#gone + 1] = name end
  end
  return names, gone
end

-- Writes the name of a value into the index, and takes those out that were due.
local function enter(c, name, ttl, time, names, gone)
  for _, other in ipairs(names) do redis.call('ZREM', c .. 'X', other) end
  for _, other in ipairs(gone) do
    if other ~= name then redis.call('ZREM', c .. 'K', other) end
  end
  redis.call('ZADD', c .. 'K', 0, name)
  if ttl > 0 then
    redis.call('ZADD', c .. 'X', string.format('%.0f', time + ttl), name)
  else
    redis.call('ZREM', c .. 'X', name)
  end
  tell(c, name)
end

-- A node's fence is made with its record, so that its first opening is sure; above the epoch of an erased one.
local function fence(t, epoch)
  local era = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
  redis.call('HSET', t .. 'f', 'e', epoch, 'n', '', 'era', era)
end

local function write(key, revision, data, ttl)
  redis.call('HSET', key, 'r', string.format('%.0f', revision), 'd', data)
  if tonumber(ttl) > 0 then redis.call('PEXPIRE', key, ttl) else redis.call('PERSIST', key) end
end

-- put when ttl data kind [name] -> the new revision, or nil
local function put(keys, args)
  local key, ttl, kind, name = keys[1], args[2], args[4], args[5]
  local revision = redis.call('HGET', key, 'r')
  if not holds(args[1], revision) then return false end
  local new = tonumber(revision or '0') + 1
  if kind == 'named' then
    local c, time = string.sub(key, 1, -3 - #name), now()           -- without 'v:<name>'
    local names, gone = due(c, time)
    redis.call('EXISTS', key, c .. 'K')
    write(key, new, args[3], ttl)
    enter(c, name, tonumber(ttl), time, names, gone)
  elseif kind == 'record' then
    local t = string.sub(key, 1, -2)
    local fenced, erased = redis.call('EXISTS', t .. 'f') == 1, redis.call('GET', t .. 'z')
    redis.call('EXISTS', key)
    write(key, new, args[3], ttl)
    if not fenced then fence(t, erased or '0') end
  else
    write(key, new, args[3], ttl)
  end
  return new
end

-- delete when [name] -> 1 or 0
local function delete(keys, args)
  local key, name = keys[1], args[2]
  local revision = redis.call('HGET', key, 'r')
  if not revision or not holds(args[1], revision) then return 0 end
  if not name then return redis.call('DEL', key) end
  local c = string.sub(key, 1, -3 - #name)
  redis.call('EXISTS', c .. 'K', c .. 'X')
  redis.call('DEL', key)
  redis.call('ZREM', c .. 'K', name)
  redis.call('ZREM', c .. 'X', name)
  tell(c, name)
  return 1
end

-- list prefix after most -> {last name looked at or '', (name, revision, data)*}; KEYS[1] = plx:{c}:K
local function list(keys, args)
  local c = string.sub(keys[1], 1, -2)
  local from = args[2] ~= '' and '(' .. args[2] or '[' .. args[1]
  local names = redis.call('ZRANGEBYLEX', keys[1], from, '[' .. args[1] .. '\255', 'LIMIT', 0, args[3])
  local out = { #names == tonumber(args[3]) and names[#names] or '' }
  for _, name in ipairs(names) do
    local got = redis.call('HMGET', c .. 'v:' .. name, 'r', 'd')
    if got[1] then
      out[#out + 1] = name; out[#out + 1] = got[1]; out[#out + 1] = got[2]
    else
      redis.call('ZREM', keys[1], name)
      redis.call('ZREM', c .. 'X', name)
    end
  end
  return out
end

redis.register_function('plx1_put', put)
redis.register_function{ function_name = 'plx1_delete', callback = delete, flags = { 'allow-oom' } }
redis.register_function{ function_name = 'plx1_list', callback = list, flags = { 'allow-oom' } }
