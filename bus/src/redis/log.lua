#!lua name=plx1_log
-- Logs of one node (protocol.md §2, slot T). KEYS[1] is plx:{ns/node}:f. The layout of every key is told in
-- docs/redis.md. A script looks at every key that may be missing before it writes (docs/redis.md, "Slots that
-- move"). Epochs and ids come as text in one spelling, so equality is equality of strings.
local HOUR = 3600000

local function slot(key) return string.sub(key, 1, -2) end          -- 'plx:{ns/node}:'

local function whole(n) return string.format('%.0f', n) end

local function replid() return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') end

local function now()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)
end

-- Looks at logs before anything is written: in a slot that is being moved, a missing key ends the script.
local function touch(t, topics)
  for _, topic in ipairs(topics) do redis.call('EXISTS', t .. 'l:' .. topic) end
end

local function id(text)
  local epoch, seq = string.match(text, '^(%d+)-(%d+)$')
  return tonumber(epoch), tonumber(seq)
end

-- Channel names are text, topics are bytes: a topic beyond ASCII is spelled in hexadecimal.
local function channel(t, topic)
  if string.find(topic, '[\128-\255]') then
    return t .. 'x:' .. string.gsub(topic, '.', function(b) return string.format('%02x', string.byte(b)) end)
  end
  return t .. 'm:' .. topic
end

-- Reads f: its plain fields, and the tail of each topic.
local function read(f)
  local head, tails, all = {}, {}, redis.call('HGETALL', f)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 't:' then tails[string.sub(all[i], 3)] = all[i + 1] else head[all[i]] = all[i + 1] end
  end
  return head, tails
end

-- Whether a log holds anything but openings. Beyond 1,000 of those it counts as one that does.
local function holds(log)
  local last, seen = '+', 0
  while seen < 1000 do
    local page = redis.call('XREVRANGE', log, last, '-', 'COUNT', 20)
    for _, entry in ipairs(page) do
      local _, seq = id(entry[1])
      if seq ~= 0 then return true end
    end
    if #page < 20 then return false end
    last, seen = '(' .. page[#page][1], seen + #page
  end
  return true
end

-- The opening's marker is the caller's LogEntry. Its field 4 is given `prev` (1) and `sure` (4): protobuf
-- merges what is concatenated.
local function complete(marker, prev, sure)
  local inner = (prev ~= '0-0' and '\10' .. string.char(#prev) .. prev or '') .. (sure and '\32\1' or '')
  return marker .. '\34' .. string.char(#inner) .. inner
end

-- Topics to open: given, wanted by a gateway, and known; without those that `sweep` drops, which come second.
-- It drops none of this epoch, whose positions would come again.
local function chosen(t, tails, sweep, args)
  local want, out, drop = {}, {}, {}
  for i = 5, #args do want[args[i]] = true end
  for _, field in ipairs(redis.call('HKEYS', t .. 'i')) do
    local at = string.find(field, ' ', 1, true)
    if at then want[string.sub(field, at + 1)] = true end
  end
  for topic, tail in pairs(tails) do
    if not want[topic] and sweep and (id(tail)) < tonumber(args[1]) and not holds(t .. 'l:' .. topic) then
      drop[#drop + 1] = topic
    else
      want[topic] = true
    end
  end
  for topic in pairs(want) do out[#out + 1] = topic end
  table.sort(out)
  return out, drop
end

-- open epoch nonce stage marker (topic)* -> {'OK', (topic, prev, sure)*}, {'FENCED', largest epoch}, or {'LOST'}.
-- The stage is 0 for the first opening of a grant, 1 where it sweeps, 2 for a later one. That is refused where
-- the first is not there: it would be taken for it, and vouch for a store that lost what came between.
local function open(keys, args)
  local f, t, epoch, nonce = keys[1], slot(keys[1]), tonumber(args[1]), args[2]
  local head, tails = read(f)
  local at = tonumber(head.e or redis.call('GET', t .. 'z') or '0')
  local largest = at
  for _, tail in pairs(tails) do largest = math.max(largest, (id(tail))) end
  if largest > epoch or (at == epoch and head.n ~= nonce) then return { 'FENCED', whole(largest) } end

  local same = head.e == args[1]
  if args[3] == '2' and not same then return { 'LOST' } end

  local era, time = replid(), now()
  local sure = head.e and head.era == era
  local doubt = not sure or (head.doubt and time - tonumber(head.doubt) < HOUR)
  local spot, out = args[1] .. '-0', { 'OK' }
  local topics, drop = chosen(t, tails, args[3] == '1', args)
  touch(t, topics)
  for _, topic in ipairs(drop) do
    redis.call('DEL', t .. 'l:' .. topic)
    redis.call('HDEL', f, 't:' .. topic)
  end
  for _, topic in ipairs(topics) do
    local tail = tails[topic] or '0-0'
    if (id(tail)) < epoch then
      local told = sure and not (doubt and tail == '0-0')
      local blob = complete(args[4], tail, told)
      redis.call('XADD', t .. 'l:' .. topic, spot, 'd', blob)
      redis.call('HSET', f, 't:' .. topic, spot)
      redis.call('SPUBLISH', channel(t, topic), blob)
      out[#out + 1] = topic; out[#out + 1] = tail; out[#out + 1] = told and 1 or 0
    end
  end
  redis.call('HSET', f, 'e', args[1], 'n', nonce)
  if not sure then redis.call('HSET', f, 'doubt', whole(time)) end
  -- A later opening under the same grant vouches for nothing: only `stamp` does, after the repair.
  if not same then redis.call('HSET', f, 'era', era) end
  return out
end

-- append epoch nonce (topic tail id keep blob)* -> per entry 1, or the tail where it is elsewhere ('': no
-- log); nil: fenced. `tail` is where the log must stand.
local function append(keys, args)
  local f, t = keys[1], slot(keys[1])
  local fields = { 'e', 'n' }
  for i = 3, #args, 5 do fields[#fields + 1] = 't:' .. args[i] end
  local got = redis.call('HMGET', f, unpack(fields))
  if got[1] ~= args[1] or got[2] ~= args[2] then return false end
  local out, topics = {}, {}
  for i = 3, #args > 7 and #args or 0, 5 do topics[#topics + 1] = args[i] end
  touch(t, topics)
  for i = 3, #args, 5 do
    local n = #out + 1
    local topic, spot, blob, tail = args[i], args[i + 2], args[i + 4], got[n + 2]
    if tail ~= args[i + 1] then
      out[n] = tail or ''
    else
      redis.call('XADD', t .. 'l:' .. topic, 'MAXLEN', '~', args[i + 3], spot, 'd', blob)
      redis.call('HSET', f, fields[n + 2], spot)
      redis.call('SPUBLISH', channel(t, topic), blob)
      out[n] = 1
    end
  end
  return out
end

-- look -> {era, all of f}
local function look(keys) return { replid(), redis.call('HGETALL', keys[1]) } end

local function opened(f, epoch, nonce)
  local got = redis.call('HMGET', f, 'e', 'n')
  return got[1] == epoch and got[2] == nonce
end

-- stamp epoch nonce era -> 1 or 0
local function stamp(keys, args)
  if not opened(keys[1], args[1], args[2]) or replid() ~= args[3] then return 0 end
  redis.call('HSET', keys[1], 'era', args[3])
  return 1
end

-- extent topic -> {tail, entries, oldest id or ''}, or nil: no log
local function extent(keys, args)
  local tail = redis.call('HGET', keys[1], 't:' .. args[1])
  if not tail then return false end
  local log = slot(keys[1]) .. 'l:' .. args[1]
  local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
  return { tail, redis.call('XLEN', log), oldest and oldest[1] or '' }
end

-- trim epoch nonce topic keep -> 1 or 0
local function trim(keys, args)
  if not opened(keys[1], args[1], args[2]) then return 0 end
  redis.call('XTRIM', slot(keys[1]) .. 'l:' .. args[3], 'MAXLEN', args[4])
  return 1
end

-- Whether no later grant has acted in this slot. Unlike `append` it allows what an owner does before it opens.
local function current(f, t, epoch, nonce)
  if opened(f, epoch, nonce) then return true end
  local e = tonumber(epoch)
  if tonumber(redis.call('HGET', f, 'e') or '0') >= e then return false end
  if tonumber(redis.call('GET', t .. 'z') or '0') >= e then return false end
  local state = redis.call('HMGET', t .. 'x', 'e', 'n')
  local other = tonumber(state[1] or '0')
  return other < e or (other == e and state[2] == nonce)
end

-- state epoch nonce data -> 1 or 0
local function state(keys, args)
  local t = slot(keys[1])
  if not current(keys[1], t, args[1], args[2]) then return 0 end
  redis.call('HSET', t .. 'x', 'e', args[1], 'n', args[2], 'd', args[3])
  return 1
end

-- erase epoch nonce -> 1 or 0. The epoch stays for an hour, so that a late script of this grant or an older
-- one finds a later one, even where the name is used again.
local function erase(keys, args)
  local f, t = keys[1], slot(keys[1])
  if not current(f, t, args[1], args[2]) then return 0 end
  local _, tails = read(f)
  local topics = {}
  for topic in pairs(tails) do topics[#topics + 1] = topic end
  redis.call('EXISTS', t .. 'd', t .. 'k', t .. 'x', t .. 'i', t .. 's', t .. 'z')
  touch(t, topics)
  for topic in pairs(tails) do redis.call('UNLINK', t .. 'l:' .. topic) end
  redis.call('DEL', f, t .. 'd', t .. 'k', t .. 'x', t .. 'i', t .. 's')
  redis.call('SET', t .. 'z', args[1], 'PX', HOUR)
  return 1
end

-- mark -> era. A write that WAIT can be asked about, and who took it.
local function mark(keys)
  redis.call('SET', slot(keys[1]) .. 's', '1')
  return replid()
end

redis.register_function('plx1_open', open)
redis.register_function('plx1_append', append)
redis.register_function('plx1_state', state)
redis.register_function{ function_name = 'plx1_look', callback = look, flags = { 'no-writes' } }
redis.register_function{ function_name = 'plx1_extent', callback = extent, flags = { 'no-writes' } }
redis.register_function{ function_name = 'plx1_stamp', callback = stamp, flags = { 'allow-oom' } }
redis.register_function{ function_name = 'plx1_trim', callback = trim, flags = { 'allow-oom' } }
redis.register_function{ function_name = 'plx1_erase', callback = erase, flags = { 'allow-oom' } }
redis.register_function('plx1_mark', mark)
