/* The slot pipe: order ring and slots, with a crash possible at every step of every process.
 *
 * protocol.cc follows this model step by step. What differs, and why what is proven here holds there:
 *   - A slot that is given back unsent keeps its generation here and changes it there, so every
 *     compare-and-swap there fails whenever the one here fails.
 *   - Generations, tags and laps do not wrap around here; words.h and protocol.h argue that they
 *     cannot be confused there.
 *   - Attempts and dead letters are left out: a dead letter is a slot that no cell can fetch, in
 *     nobody's hands or being read. Each step of it is one compare-and-swap: who takes, returns or
 *     releases one, and a sweep, make it what it is after that or leave it what it was.
 *   - Push there finds the ring full only after ClearStaleHead has found nothing to clear; here it is
 *     full at once. ClearStaleHead clears and passes over what a fetch would clear and pass over, by
 *     the same steps: a cell whose slot, read before the cell was found unchanged, cannot be fetched
 *     with its tag. It claims no slot, so it is a fetch here that got nothing.
 *   - A full ring leaves the slot with its owner there (kRingFull), which may try again, give back
 *     or leave; the producer here gives back and the consumer leaves. What was not pushed has no cell,
 *     so each of these is a step that the owner could have made before the push, but one: a
 *     message that was REQUEUE for a moment may have been fetched through an older cell, and then
 *     the compare-and-swap back to READING fails and the return was done. A sweep that finds the
 *     ring full leaves the dead one its place, and the next one goes on (Swept::complete); here
 *     the ring has room for it, which is asserted.
 *   - SettleWriting there looks into the ring once for all slots that the dead one wrote in; here
 *     each slot has a pass of its own. The words of those slots are read before the pass there, too,
 *     and nobody but a fetch, after which the compare-and-swap on the old word fails, changes them:
 *     so the one pass is the passes of all slots at the same time, and their order among each
 *     other means nothing.
 *   - Fetch there reads the cell again after its slot's word. Here the compare-and-swap on the slot
 *     does without, as cells and generations do not wrap around and a full cell of the generation is
 *     what it was; there a cell that has changed sends the fetch back to its beginning, where it
 *     has done nothing yet. So its steps are those of a fetch here that begins later.
 *   - Fetch there that finds a cell of a lap before head's reads head again, and begins anew when that
 *     has moved; here no cell is behind head (W4), as laps do not wrap around.
 *   - A participant's place is taken again there by somebody else, under the lock of the place and
 *     after a sweep that left it nothing (Participants::Join); here nobody joins. The index in a
 *     word is that of the place. Nothing is owned by a place when it is taken, and the one before
 *     it does nothing any more, so who comes is one of the processes here that begins then: that
 *     they run from the beginning here only adds orders in which they are slow to begin.
 *   - A dead letter can be put back there (ReadSlot::Redrive): taken by its slot's word without a
 *     cell, then returned. Its cell was cleared by the fetch that came before it was buried, and
 *     fetches of the same cell by others fail there as for a message that is being read. So it is a
 *     message that one consumer holds for long and returns, which is here; its tag is that of
 *     its cycle as ever, and older cells with it are duplicates, as those of a sweep.
 *   - Hold there looks where its hints say; here it looks at each slot once, from the first on. Slots
 *     are alike, and what is taken is an empty one, by the same compare-and-swap. That the hints
 *     lead to every empty slot is not asked here, but of the code (interleaving/).
 *   - A sweep that finds a slot in REQUEUE already pushes its cell there at once; here it makes the
 *     word what it is by a compare-and-swap first. So its steps there are those here when nothing
 *     comes between the look and that: what is fetched after the look gets a cell too many, as what
 *     is fetched before the push does here.
 *   - Fetch and Push there give up after kRoundsMax rounds (kCorrupt); here they go round for ever.
 *     Who gives up has not claimed or pushed anything, and keeps what it has: it is as slow there as
 *     it likes, until it gives that back or leaves.
 *   - Memory is prefetched there. That changes no value, whatever the slot is in.
 * It assumes sequential consistency; protocol.h gives the reason of each weaker order.
 *
 * Processes: 0,1 produce, 2,3 consume (and may return what they fetched), 4,5 sweep the dead;
 * 6 sweeps and drains at the end, and checks that each message that was sent came out once, that
 * none came that was not sent, and that every slot is empty.
 */
#ifndef N
#define N 2
#endif
#ifndef M
#define M 4
#endif
#ifndef NPROD
#define NPROD 1
#endif
#ifndef NCONS
#define NCONS 1
#endif
#ifndef NREC
#define NREC 1
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#define NPROC (NPROD + NCONS + NREC)   /* that can die */
#ifndef FETCHES
#define FETCHES 2    /* of each consumer */
#endif
#ifndef MAXC
#define MAXC 2
#endif
#define P 7      /* 0,1 producers 2,3 consumers 4,5,6 recoverers(6 = final) */
#define NONE 15
#define EMPTY 0
#define WRITING 1
#define READY 2
#define READING 3
#define REQ 4
typedef slot_t { byte st; byte ow; byte g; byte m };
typedef cell_t { bit fl; byte ix; byte g; byte lap };
slot_t s[N];
cell_t c[M];
byte head=0, tail=0;
bit dead[P]; bit freed[P];
byte lk[P];           /* recovery lock owner */
byte crashes=0;
byte nsent=0; bit sent[4]; byte dlv[4];
byte running=0; bit phase2=0;
#if MAXC==0
#define CR(x) skip   /* a step of its own all the same */
#else
#define CR(x) if :: (crashes<MAXC) -> atomic{crashes++; dead[x]=1; goto out} :: skip fi
#endif
#define LOCKFREE(p) (lk[p]==NONE || dead[lk[p]])

inline push(i,gg,okv,x,mid,isend) {   /* push cell (i,gg); okv=1 on success */
  okv=0;
  do
  :: CR(x); atomic{ t=tail; } CR(x);
     atomic{
       if
       :: (!c[t%M].fl && c[t%M].lap==t/M) -> c[t%M].fl=1; c[t%M].ix=i; c[t%M].g=gg; c[t%M].lap=t/M; okv=1;
            if :: isend -> sent[mid]=1; :: else fi
       :: (c[t%M].fl && c[t%M].lap==t/M) -> okv=2
       :: (c[t%M].lap>t/M) -> okv=2
       :: else -> okv=3
       fi }
     CR(x);
     if :: okv==3 -> atomic{ if :: (tail==t) -> okv=4 :: else -> skip fi }  /* full if tail unchanged */
        :: else -> atomic{ if :: (tail==t) -> tail=t+1 :: else fi }
     fi;
     if :: (okv==1||okv==4) -> break :: else fi
  od
}
inline fetch(x,got,gi,gg) {  /* got 1: claimed slot gi gen gg ; got 0: empty */
  got=0;
  do
  :: CR(x); h=head; CR(x);
     atomic{ cf=c[h%M].fl; ci=c[h%M].ix; cg=c[h%M].g; cl=c[h%M].lap; }
     CR(x);
     if
     :: (cl==h/M && cf) ->
        /* read slot */
        atomic{ ws=s[ci].st; wo=s[ci].ow; wg=s[ci].g; }
        CR(x);
        if
        :: (wg==cg && (ws==WRITING||ws==READY||ws==REQ)) ->
            atomic{ if :: (s[ci].st==ws && s[ci].ow==wo && s[ci].g==wg) -> s[ci].st=READING; s[ci].ow=x; got=1; gi=ci; gg=cg
                       :: else -> got=2 fi }
        :: else -> got=3
        fi;
        CR(x);
        if :: got==2 -> skip /* slot changed under us: re-examine before clearing */
           :: else ->
             atomic{ if :: (c[h%M].fl && c[h%M].lap==cl && c[h%M].ix==ci && c[h%M].g==cg) -> c[h%M].fl=0; c[h%M].lap=cl+1 :: else fi }
             CR(x);
             atomic{ if :: (head==h) -> head=h+1 :: else fi }
        fi;
        if :: got==1 -> break :: else -> got=0 fi
     :: (cl>h/M) -> atomic{ if :: (head==h) -> head=h+1 :: else fi }
     :: (cl==h/M && !cf) -> got=0; break
     :: else -> assert(0)
     fi
  od
}
proctype Prod(byte me; byte m) {
  byte i,t,ok,g;
  CR(me);
  i=0; ok=0;
  do
  :: (i<N) -> CR(me);
     atomic{ if :: (s[i].st==EMPTY) -> s[i].st=WRITING; s[i].ow=me; g=s[i].g; ok=1 :: else fi }
     if :: ok -> break :: else -> i++ fi
  :: (i>=N) -> goto out       /* full: give up */
  od;
  CR(me);
  s[i].m=m;                    /* payload */
  push(i,g,ok,me,m,1);
  if :: ok==4 -> atomic{ if :: (s[i].st==WRITING&&s[i].ow==me&&s[i].g==g) -> s[i].st=EMPTY; s[i].ow=NONE :: else fi }
     :: else -> CR(me); atomic{ if :: (s[i].st==WRITING&&s[i].ow==me&&s[i].g==g) -> s[i].st=READY; s[i].ow=NONE :: else fi }
  fi;
out: running--
}
proctype Cons(byte me) {
  byte h,ci,cg,cl,ws,wo,wg,got,gi,gg,k,t,ok; bit cf;
  k=0;
  do
  :: k<FETCHES -> k++;
     fetch(me,got,gi,gg);
     if :: got==1 -> CR(me);
          if
          :: /* commit: single CAS; delivery counted with it */
          atomic{ if :: (s[gi].st==READING&&s[gi].ow==me&&s[gi].g==gg) -> dlv[s[gi].m]++; s[gi].st=EMPTY; s[gi].g=gg+1; s[gi].ow=NONE :: else fi }
#ifdef RETURNS
          :: /* return it instead */
          atomic{ assert(s[gi].st==READING&&s[gi].ow==me&&s[gi].g==gg); s[gi].st=REQ }
          push(gi,gg,ok,me,0,0);
          CR(me);
          if :: ok==1 -> atomic{ if :: (s[gi].st==REQ&&s[gi].ow==me&&s[gi].g==gg) -> s[gi].st=READY; s[gi].ow=NONE :: else fi }
             :: else -> atomic{ if :: (s[gi].st==REQ&&s[gi].ow==me&&s[gi].g==gg) -> s[gi].st=READING :: else fi }; atomic{ dead[me]=1; goto out } /* no room: leaves, and is swept */
          fi
#endif
          fi
        :: else
     fi
  :: k>=FETCHES -> break
  od;
out: running--
}
inline sweep(p,me) {
  i=0;
  do
  :: i<N ->
     CR(me);
     atomic{ ws=s[i].st; wo=s[i].ow; wg=s[i].g; }
     if
     :: (wo==p && ws==WRITING) ->
        j=0; fnd=0;
        do :: j<M -> CR(me); atomic{ if :: (c[j].fl && c[j].ix==i && c[j].g==wg) -> fnd=1 :: else fi } j++ :: else -> break od;
        CR(me);
        if :: fnd -> atomic{ if :: (s[i].st==WRITING&&s[i].ow==p&&s[i].g==wg) -> s[i].st=READY; s[i].ow=NONE :: else fi }
           :: else -> atomic{ if :: (s[i].st==WRITING&&s[i].ow==p&&s[i].g==wg) -> s[i].st=EMPTY; s[i].ow=NONE :: else fi }
        fi
     :: (wo==p && (ws==READING||ws==REQ)) ->
        atomic{ ok=0; if :: (s[i].st==ws&&s[i].ow==p&&s[i].g==wg) -> s[i].st=REQ; ok=1 :: else fi }   /* the dead one stays the owner */
        if :: ok ->
          push(i,wg,ok,me,0,0);
          CR(me);
          if :: ok==1 -> atomic{ if :: (s[i].st==REQ&&s[i].ow==p&&s[i].g==wg) -> s[i].st=READY; s[i].ow=NONE :: else fi }
             :: else -> assert(0) /* ring must never be full */
          fi
           :: else fi
     :: else
     fi;
     i++
  :: else -> break
  od
}
proctype Rec(byte me; byte rounds) {
  byte i,j,t,ok,ws,wo,wg,p,r; bit fnd;
  r=0;
  do
  :: r<rounds -> r++; p=0;
     do
     :: p<P-1 ->
        atomic{ ok=0; if :: (p!=me && dead[p] && !freed[p] && LOCKFREE(p)) -> lk[p]=me; ok=1 :: else fi }
        if :: ok -> sweep(p,me); CR(me); atomic{ freed[p]=1; lk[p]=NONE } :: else fi;
        p++
     :: else -> break
     od
  :: else -> break
  od;
out: if :: me!=6 -> running-- :: else fi
}
/* final: healthy recoverer + drain, no more crashes */
proctype Final() {
  byte i,j,t,ok,ws,wo,wg,p,r,h,ci,cg,cl,got,gi,gg; bit fnd,cf;
  (running==0);
  d_step{ crashes=MAXC; }
  r=0;
  do :: r<2 -> r++; p=0;
     do :: p<P-1 -> if :: (dead[p]&&!freed[p]) -> sweep(p,6); freed[p]=1 :: else fi; p++ :: else -> break od
     :: else -> break od;
  do
  :: fetch(6,got,gi,gg);
     if :: got==1 -> atomic{ dlv[s[gi].m]++; s[gi].st=EMPTY; s[gi].g=gg+1; s[gi].ow=NONE }
        :: else -> break fi
  od;
  i=0; do :: i<N -> assert(s[i].st==EMPTY); i++ :: else -> break od;      /* no leaked slot */
  i=0; do :: i<3 -> assert(dlv[i]==sent[i]); i++ :: else -> break od;     /* no loss, no dup, no ghost */
out: skip
}
init {
  atomic {
    byte k=0; do :: k<P -> lk[k]=NONE; k++ :: else -> break od;
    k=0; do :: k<N -> s[k].ow=NONE; k++ :: else -> break od;
    running=NPROC;
    run Prod(0,0);
#if NPROD>1
    run Prod(1,1);
#endif
    run Cons(2);
#if NCONS>1
    run Cons(3);
#endif
#if NREC>0
    run Rec(4,ROUNDS);
#endif
#if NREC>1
    run Rec(5,ROUNDS);
#endif
    run Final();
  }
}
